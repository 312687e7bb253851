"""What one factor will take, counted from its shape."""

from __future__ import annotations

from dataclasses import dataclass

from ddn_core.engine.factors.contraction import Contraction, cheapest_contraction


@dataclass(frozen=True)
class FactorPlan:
    """What one factor takes.

    Attributes:
        group: Number of the parameters' group.
        size: Number of entries of the parameters.
        shape: Numbers of groups, outputs, features and positions.
        storage: `"formed"` for the columns themselves, `"structured"` for root and input.
        contraction: The way to the Gram matrix.
        forming_operations: Operations to form the columns that are kept formed.
        gram_operations: Operations of the Gram matrix.
        combination_operations: Operations of V · w for one w.
        bytes: What is held.
        slice_bytes: What its products hold beside that, at least.
        feature_bytes: What its unfolded input holds, while columns are formed.
    """

    group: int
    size: int
    shape: tuple[int, int, int, int]
    storage: str
    contraction: Contraction
    forming_operations: float
    gram_operations: float
    combination_operations: float
    bytes: int
    slice_bytes: int
    feature_bytes: int


def plan_factor(
    group: int,
    shape: tuple[int, int, int, int],
    storage: str,
    samples: int,
    per_sample: int,
    itemsize: int,
) -> FactorPlan:
    """Return what one factor takes, from its shape and the numbers of samples and columns.

    Args:
        group: Number of the parameters' group.
        shape: Numbers of groups, outputs, features and positions.
        storage: `"formed"` or `"structured"`.
        samples: Number of samples.
        per_sample: Number of columns for each.
        itemsize: Bytes of a number.
    """
    groups, outputs, features, positions = shape
    columns, size = samples * per_sample, groups * outputs * features
    formed = storage == "formed"
    contraction, operations = cheapest_contraction(samples, per_sample, *shape)
    root = groups * outputs * positions
    if formed or contraction == "outer":
        slice_elements = 0
    else:
        slice_elements = per_sample * outputs * positions if contraction == "pairs" else 2 * columns * groups * features
    return FactorPlan(
        group=group,
        size=size,
        shape=shape,
        storage=storage,
        contraction="formed" if formed else contraction,
        forming_operations=float(columns * size * positions) if formed else 0.0,
        gram_operations=0.5 * columns**2 * size if formed else operations,
        combination_operations=float(columns * size if formed else columns * root + samples * size * positions),
        bytes=columns * (size if formed else root) * itemsize,
        slice_bytes=slice_elements * itemsize,
        feature_bytes=samples * groups * features * positions * itemsize,
    )

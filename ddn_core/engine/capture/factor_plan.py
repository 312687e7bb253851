"""The cost of one factor, computed from its shape."""

from __future__ import annotations

from dataclasses import dataclass

from ddn_core.engine.factors.contraction import Contraction, cheapest_contraction


@dataclass(frozen=True)
class FactorPlan:
    """Operations and bytes of one factor.

    Attributes:
        group: Number of the parameters' group.
        size: Number of entries of the parameters.
        shape: Numbers of groups, outputs, features and positions.
        storage: `"formed"` for the columns themselves, `"structured"` for root and input.
        contraction: Contraction for the Gram matrix.
        forming_operations: Number of operations to form the columns, if they are stored formed.
        gram_operations: Number of operations for the Gram matrix.
        combination_operations: Number of operations for V · w, with one vector w.
        bytes: Number of bytes of the stored columns.
        slice_bytes: Smallest number of additional bytes that products need.
        feature_bytes: Number of bytes of the unfolded input, while columns are formed.
        site_elements: Number of elements of a column at the operation's output, for one sample.
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
    site_elements: int


def plan_factor(
    group: int,
    shape: tuple[int, int, int, int],
    storage: str,
    samples: int,
    per_sample: int,
    itemsize: int,
    site_elements: int = 0,
) -> FactorPlan:
    """Return the plan of one factor, from its shape and the numbers of samples and columns.

    Args:
        group: Number of the parameters' group.
        shape: Numbers of groups, outputs, features and positions.
        storage: `"formed"` or `"structured"`.
        samples: Number of samples.
        per_sample: Number of columns for each sample.
        itemsize: Number of bytes of an element.
        site_elements: Number of elements of a column at the operation's output, for one sample.
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
        site_elements=site_elements,
    )

"""A factor: the rows of V that belong to the parameters of one layer."""

from __future__ import annotations

from dataclasses import dataclass

from ddn_core.engine.factors.columns import Columns


@dataclass(frozen=True, eq=False)
class Factor:
    """The rows of V that belong to one or two parameters, and the per-sample gradients for the same.

    Attributes:
        parameters: `id` of each parameter, in the order of the columns' parts.
        root: Columns of V.
        gradient: Per-sample gradients, one column for each sample, up to the capture's `gradient_scale`; `None` where
            they are combinations of the root's columns.
    """

    parameters: tuple[int, ...]
    root: Columns
    gradient: Columns | None

"""A factor: the rows of V that belong to the parameters of one operation and one group."""

from __future__ import annotations

from dataclasses import dataclass

from ddn_core.engine.factors.columns import Columns


@dataclass(frozen=True, eq=False)
class Factor:
    """The rows of V that belong to one or two parameters, and the per-sample gradients of these parameters.

    Attributes:
        parameters: `id` of each parameter, in the order of the columns' layout.
        root: Columns of V.
        gradient: Per-sample gradients, one column for each sample, to be multiplied by the capture's `gradient_scale`;
            `None` if they are combinations of the root's columns.
    """

    parameters: tuple[int, ...]
    root: Columns
    gradient: Columns | None

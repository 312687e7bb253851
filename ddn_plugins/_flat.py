"""Directions without curvature: where λ̄_k is zero on the samples that it is measured on, and so is the damping."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from ddn_core.api import Directions


def still_where_flat(deltas: Tensor, directions: Directions) -> Tensor:
    """Return the dampings, with +inf (do not move) where curvature and damping are both zero, `[K]`."""
    return deltas.masked_fill(directions.loss_lambdas + deltas <= 0, math.inf)

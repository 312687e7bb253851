"""Dampings as a tensor: one number for all directions, and directions without curvature."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from ddn_core.api import Directions


def still_where_flat(deltas: Tensor, directions: Directions) -> Tensor:
    """Return the dampings, with +inf (do not move) where curvature and damping are both zero, `[K]`."""
    return deltas.masked_fill(directions.loss_lambdas + deltas <= 0, math.inf)


def same_for_all(delta: float, directions: Directions) -> Tensor:
    """Return one damping for all directions, `[K]`; +inf (do not move) where it is beyond the dtype."""
    evals = directions.evals
    return (0 * evals.double() + delta).to(evals.dtype)

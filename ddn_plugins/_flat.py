"""Tensors of dampings: one number for all directions, and +inf for directions without curvature."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from ddn_core.api import Directions


def freeze_flat_directions(deltas: Tensor, directions: Directions) -> Tensor:
    """Return the dampings, `[K]`, with +inf (do not move) where curvature and damping are both zero."""
    return deltas.masked_fill(directions.loss_lambdas + deltas <= 0, math.inf)


def uniform_deltas(delta: float, directions: Directions) -> Tensor:
    """Return the same damping for all directions, `[K]`; +inf (do not move) if the dtype cannot represent it."""
    evals = directions.evals
    return (0 * evals.double() + delta).to(evals.dtype)

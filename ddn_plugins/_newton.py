"""Newton's method in one variable, for dampings that are defined by the norm of the step (secular equations).

In the eigenbasis the step along direction k is `-γ̄_k / (λ̄_k + δ)`, so that its norm `‖s(δ)‖` costs K operations. As
in Moré and Sorensen (1983), the equation is written for the reciprocal of the norm, which is concave in δ. Newton's
method then approaches the root from the left and never overshoots.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from ddn_core.api import Directions

ITERATIONS = 200
PRECISION = 1e-15


def root_from_left(function: Callable[[float], tuple[float, float]], start: float) -> float:
    """Return the root of a concave, increasing function.

    Args:
        function: Function that returns value and derivative.
        start: A number at or below the root.
    """
    delta = start
    for _ in range(ITERATIONS):
        value, derivative = function(delta)
        if value >= 0:
            break
        change = -value / derivative
        delta += change
        if change <= PRECISION * delta:
            break
    return delta


def gradients_and_curvatures(directions: Directions) -> tuple[Tensor, Tensor]:
    """Return |γ̄_k| and λ̄_k in float64, `[K]`."""
    return directions.loss_gammas.double().abs(), directions.loss_lambdas.double()


def reciprocal_norm(gammas: Tensor, lambdas: Tensor, delta: float) -> tuple[float, float]:
    """Return `1 / ‖s(δ)‖` and its derivative with respect to δ."""
    curvatures = lambdas + delta
    lengths = (gammas / curvatures).masked_fill(gammas == 0, 0.0)  # also where λ̄ + δ = 0
    longest = float(lengths.max())
    shares = lengths / longest  # squares of small numbers underflow
    norm = float(shares.norm())
    slopes = (shares.square() / curvatures).masked_fill(gammas == 0, 0.0)
    return 1 / longest / norm, float(slopes.sum()) / norm**3 / longest

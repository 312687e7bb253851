"""Measures of directions and their dampings: signal-to-noise, and the contribution of each direction to the step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ddn_core.api import Directions
from ddn_core.engine import DampedDirections


def signal_to_noise(directions: Directions) -> Tensor:
    """Return the signal-to-noise ratio of each directional gradient, `[K]`, without unit.

    `γ̄_k² / (s_k² / N)`, with the mean γ̄_k and the unbiased variance s_k² of `γ[n, k]` over N samples: the square of the
    t statistic. Pure noise has 1 on average. The ratio is NaN for a single sample, and where all samples are zero.
    """
    gammas = directions.gammas.double()
    if len(gammas) < 2:
        return torch.full((len(directions),), float("nan"), dtype=torch.float64)
    return gammas.mean(0).square() / (gammas.var(0) / len(gammas))


@dataclass(frozen=True, eq=False)
class DampedChoice:
    """Directions that a criterion kept, with their dampings, and the step along them.

    Attributes:
        every: All directions.
        kept: Indices of the directions that were kept, `[K]`.
        deltas: Their dampings, `[K]`, loss/param².
        lr: Factor on the step.
    """

    every: Directions
    kept: Tensor
    deltas: Tensor
    lr: float = 1.0

    @property
    def damped(self) -> DampedDirections:
        """The kept directions with their dampings."""
        return DampedDirections.of(self.every.select(self.kept), self.deltas)

    @property
    def step_norm(self) -> float:
        """Euclidean norm of `lr` times the step, param."""
        return self.lr * float(self.damped.coefficients.double().norm())

    @property
    def predicted_decrease(self) -> float:
        """Decrease of the loss that the quadratic model predicts for `lr` times the step, loss."""
        return float(self.decreases().sum())

    def decreases(self) -> Tensor:
        """Return the contribution of each kept direction to the predicted decrease, `[K]`, loss; float64.

        `-(lr s_k γ̄_k + ½ lr² s_k² λ̄_k)` with the length s_k of the step along direction k.
        """
        damped = self.damped
        return decreases(damped.coefficients, damped.loss_gammas, damped.loss_lambdas, self.lr)

    def shares(self) -> Tensor:
        """Return the share of each kept direction in the squared norm of the step, `[K]`, without unit; float64."""
        squares = self.damped.coefficients.double().square()
        return squares / squares.sum() if float(squares.sum()) > 0 else squares


def decreases(lengths: Tensor, gammas: Tensor, lambdas: Tensor, lr: float) -> Tensor:
    """Return the decrease of a quadratic model along each direction, `-(lr s_k γ_k + ½ lr² s_k² λ_k)`, `[K]`, loss.

    Args:
        lengths: Length of the step along each direction, without `lr`, param.
        gammas: Directional gradients of the loss, loss/param.
        lambdas: Directional curvatures of the loss, loss/param².
        lr: Factor on the step.
    """
    moved = lr * lengths.double()
    return -(moved * gammas.double() + 0.5 * moved.square() * lambdas.double())

"""The directionally damped Newton step, `s = Σ_k -γ̄_k / (λ̄_k + δ_k) e_k` (Dangel et al. 2022, section 2)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ddn_core.engine.directions import Directions
from ddn_core.errors import CurvatureError


@dataclass(frozen=True, eq=False)
class DampedDirections(Directions):
    """Chosen directions with their dampings: all that the step of a group is made of.

    Attributes:
        deltas: Dampings δ_k, `[K]`, loss/param²; +inf means that the step does not move along the direction.
    """

    deltas: Tensor

    @classmethod
    def of(cls, directions: Directions, deltas: Tensor) -> DampedDirections:
        """Return the directions with these dampings; what was computed of them is kept."""
        damped = cls(
            directions.evals, directions.evecs, directions.all_evals, directions.reduction, directions.source, deltas
        )
        vars(damped).update(
            {name: vars(directions)[name] for name in ("gammas", "lambdas") if name in vars(directions)}
        )
        return damped

    @cached_property
    def coefficients(self) -> Tensor:
        """Length of the step along each direction, `-γ̄_k / (λ̄_k + δ_k)`, `[K]`, param."""
        return -self.loss_gammas / (self.loss_lambdas + self.deltas)

    def step(self) -> tuple[Tensor, ...]:
        """Return the step in parameter space, in the shapes of the group's parameters.

        Raises:
            CurvatureError: The step has a NaN or an infinity in it.
        """
        weights = self.evecs @ (self.coefficients / self.evals.sqrt())
        step = tuple(vectors[0] for vectors in self.source.combine(weights[:, None]))
        if not all(bool(torch.isfinite(move).all()) for move in step):
            raise CurvatureError("the step has NaN or infinite entries. Damp more, scale the loss, or use float64.")
        return step

    def step_norm(self) -> Tensor:
        """Return the Euclidean norm of the step, a scalar in param: directions are orthonormal."""
        return self.coefficients.square().sum().sqrt()

    def predicted_decrease(self, lr: float = 1.0) -> Tensor:
        """Return by how much the quadratic model of the loss decreases along `lr` times the step, a scalar in loss."""
        lengths = lr * self.coefficients
        return -(self.loss_gammas * lengths + 0.5 * self.loss_lambdas * lengths.square()).sum()

"""The directionally damped Newton step, `s = Σ_k -γ̄_k / (λ̄_k + δ_k) e_k` (Dangel et al. 2022, section 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from ddn_core.engine.directions import COMPUTED, Directions
from ddn_core.errors import NonFiniteError


class Spectral(Protocol):
    """What is told of a step along its directions, one entry for each."""

    @property
    def count(self) -> int:
        """Number of chosen directions; of all that there can be, where none were computed."""

    @property
    def all_evals(self) -> Tensor:
        """Eigenvalues before the criterion chose, ascending, loss/param²."""

    @property
    def evals(self) -> Tensor:
        """Eigenvalues of the chosen directions, `[K]`, loss/param²."""

    @property
    def gammas(self) -> Tensor:
        """Directional gradients of the loss along them, `[K]`, loss/param."""

    @property
    def lambdas(self) -> Tensor:
        """Directional curvatures of the loss along them, `[K]`, loss/param²."""

    @property
    def deltas(self) -> Tensor:
        """Their dampings, `[K]`, loss/param²."""

    @property
    def coefficients(self) -> Tensor:
        """Lengths of the step along them, `[K]`, param."""

    @property
    def fallbacks(self) -> tuple[str, ...]:
        """What a solver had to try beyond the first attempt."""

    def norm(self) -> Tensor:
        """Return the Euclidean norm of the step, a scalar in param."""

    def slope(self) -> Tensor:
        """Return the derivative of the loss along the step, a scalar in loss."""

    def bend(self) -> Tensor:
        """Return the curvature of the quadratic model along the step, a scalar in loss."""


class GroupStep(Protocol):
    """The step of a group: along chosen directions, or solved for without any."""

    @property
    def directions(self) -> DampedDirections:
        """The chosen directions with their dampings; computed now, where the step was solved for without them."""

    @property
    def spectral(self) -> Spectral:
        """What is told of the step along its directions; does not hold the factors."""

    @property
    def uniform_damping(self) -> float | None:
        """The damping of every direction, if the step was solved for without any."""

    def step(self) -> tuple[Tensor, ...]:
        """Return the step in parameter space, in the shapes of the group's parameters."""

    def step_norm(self) -> Tensor:
        """Return the Euclidean norm of the step, a scalar in param."""

    def predicted_decrease(self, lr: float = 1.0) -> Tensor:
        """Return by how much the quadratic model of the loss decreases along `lr` times the step, a scalar in loss."""


@dataclass(frozen=True, eq=False)
class DampedDirections(Directions):
    """Chosen directions with their dampings: all that the step of a group is made of.

    Attributes:
        deltas: Dampings δ_k, `[K]`, loss/param²; +inf means that the step does not move along the direction.
    """

    deltas: Tensor = field(kw_only=True)

    @classmethod
    def of(cls, directions: Directions, deltas: Tensor) -> DampedDirections:
        """Return the directions with these dampings; what was computed of them is kept."""
        given = {entry.name: getattr(directions, entry.name) for entry in fields(Directions)}
        damped = cls(**given, deltas=deltas)
        vars(damped).update({name: vars(directions)[name] for name in COMPUTED if name in vars(directions)})
        return damped

    @property
    def directions(self) -> DampedDirections:
        """These directions."""
        return self

    @cached_property
    def spectral(self) -> Spectral:
        """What is told of the step along its directions."""
        return SpectralSummary.of(self)

    @property
    def uniform_damping(self) -> None:
        """Nothing: each direction was damped on its own."""
        return

    @cached_property
    def coefficients(self) -> Tensor:
        """Length of the step along each direction, `-γ̄_k / (λ̄_k + δ_k)`, `[K]`, param."""
        return -self.loss_gammas / (self.loss_lambdas + self.deltas)

    def step(self) -> tuple[Tensor, ...]:
        """Return the step in parameter space, in the shapes of the group's parameters.

        Raises:
            NonFiniteError: The step has a NaN or an infinity in it.
        """
        return checked_step([vectors[0] for vectors in self.source.move(self, self.coefficients[:, None])])

    def step_norm(self) -> Tensor:
        """Return the Euclidean norm of the step, a scalar in param."""
        return self.spectral.norm()

    def predicted_decrease(self, lr: float = 1.0) -> Tensor:
        """Return by how much the quadratic model of the loss decreases along `lr` times the step, a scalar in loss."""
        return predicted_decrease(self.spectral, lr)


@dataclass(frozen=True, eq=False)
class SpectralSummary:
    """What is told of a step along its directions, as plain tensors."""

    all_evals: Tensor
    evals: Tensor
    gammas: Tensor
    lambdas: Tensor
    deltas: Tensor
    coefficients: Tensor
    fallbacks: tuple[str, ...]

    @classmethod
    def of(cls, step: DampedDirections) -> SpectralSummary:
        """Return what is told of a step; does not hold what it was computed from."""
        return cls(
            all_evals=step.all_evals,
            evals=step.evals,
            gammas=step.loss_gammas,
            lambdas=step.loss_lambdas,
            deltas=step.deltas,
            coefficients=step.coefficients,
            fallbacks=step.fallbacks,
        )

    @property
    def count(self) -> int:
        """Number of chosen directions."""
        return len(self.evals)

    def norm(self) -> Tensor:
        """Return the Euclidean norm of the step, a scalar in param: directions are orthonormal."""
        return self.coefficients.square().sum().sqrt()

    def slope(self) -> Tensor:
        """Return the derivative of the loss along the step, a scalar in loss."""
        return (self.gammas * self.coefficients).sum()

    def bend(self) -> Tensor:
        """Return the curvature of the quadratic model along the step, a scalar in loss."""
        return (self.lambdas * self.coefficients.square()).sum()


def predicted_decrease(told: Spectral, lr: float) -> Tensor:
    """Return by how much the quadratic model of the loss decreases along `lr` times a step, a scalar in loss."""
    return -(lr * told.slope() + 0.5 * lr**2 * told.bend())


def checked_step(step: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return a step, or raise.

    Raises:
        NonFiniteError: The step has a NaN or an infinity in it.
    """
    if not all_finite(step):
        raise NonFiniteError("the step has NaN or infinite entries. Damp more, scale the loss, or use float64.")
    return tuple(step)


def all_finite(tensors: Sequence[Tensor]) -> bool:
    """Return whether no tensor has a NaN or an infinity in it."""
    if all(bool(tensor.sum().isfinite()) for tensor in tensors):
        return True
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)  # a sum of finite numbers can overflow

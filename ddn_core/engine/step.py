"""The directionally damped Newton step of a group (Dangel et al. 2022, section 2), with its figures along directions.

A step is the sum of a start, which does not depend on the curvature (`terms.py`; zero without weight decay and anchor),
and a correction, which the damped curvature adds. The correction comes from directions that were decomposed in this
step, from those that are held from an earlier one, or from a solve without directions (`solved.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Protocol, Self

import torch
from torch import Tensor

from ddn_core.engine.context import Context
from ddn_core.engine.directions import Directions
from ddn_core.engine.quadratic import QuadraticModel
from ddn_core.engine.terms import StepTerms
from ddn_core.errors import NonFiniteError


class StepSummary(Protocol):
    """Figures of a step along its directions, without a reference to the factors."""

    @property
    def count(self) -> int:
        """Number of chosen directions; min(R, P) if the step was computed without directions."""

    @property
    def table(self) -> DirectionTable:
        """One entry for each direction; decomposed when first read, if the step was computed without directions."""

    def norm(self) -> Tensor:
        """Return the Euclidean norm of the step along the directions, a scalar in param."""

    def slope(self) -> Tensor:
        """Return the derivative of the loss along that step, a scalar in loss."""

    def curvature(self) -> Tensor:
        """Return the curvature of the quadratic model along that step, a scalar in loss."""


@dataclass(frozen=True, eq=False)
class DirectionTable:
    """A step along chosen directions: one entry for each.

    Attributes:
        all_evals: Eigenvalues before the criterion chose, ascending, loss/param².
        evals: Eigenvalues of the chosen directions, `[K]`, loss/param².
        gammas: Directional gradients of the loss, weight decay included, `[K]`, loss/param.
        lambdas: Directional curvatures of the loss, weight decay included, `[K]`, loss/param².
        deltas: Dampings, `[K]`, loss/param²; +inf means that the step along the direction is that to the anchor.
        fallbacks: Eigensolvers that were tried beyond the first.
        anchors: Inner products of the directions with the anchor, `[K]`, param; `None` for zero.
    """

    all_evals: Tensor
    evals: Tensor
    gammas: Tensor
    lambdas: Tensor
    deltas: Tensor
    fallbacks: tuple[str, ...] = ()
    anchors: Tensor | None = None

    @cached_property
    def coefficients(self) -> Tensor:
        """Length of the step along each direction, `a_k - (γ̄_k + λ̄_k a_k) / (λ̄_k + δ_k)`, `[K]`, param."""
        slopes = self.gammas if self.anchors is None else self.gammas + self.lambdas * self.anchors
        newton = -slopes / (self.lambdas + self.deltas)
        return newton if self.anchors is None else self.anchors + newton

    def promise(self, gammas: Tensor, lambdas: Tensor) -> float:
        """Return the decrease that the slope of the loss, where the correction starts, promises along it, in loss.

        Args:
            gammas: Directional gradients of the loss alone, `[K]`.
            lambdas: Directional curvatures of the loss alone, `[K]`.
        """
        anchors = 0.0 if self.anchors is None else self.anchors
        return -float(((gammas + lambdas * anchors) * (self.coefficients - anchors)).sum(dtype=torch.float64))

    @property
    def count(self) -> int:
        """Number of chosen directions."""
        return len(self.evals)

    @property
    def table(self) -> Self:
        """This table."""
        return self

    def norm(self) -> Tensor:
        """Return the Euclidean norm of the step, a scalar in param: directions are orthonormal."""
        norm: Tensor = torch.linalg.vector_norm(self.coefficients, dtype=torch.float64)
        return norm.to(self.coefficients.dtype)

    def slope(self) -> Tensor:
        """Return the derivative of the loss along the step, a scalar in loss."""
        return (self.gammas * self.coefficients).sum(dtype=torch.float64)

    def curvature(self) -> Tensor:
        """Return the curvature of the quadratic model along the step, a scalar in loss."""
        return (self.lambdas * self.coefficients * self.coefficients).sum(dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class DampedDirections(Directions):
    """Chosen directions with their dampings, from which the step of a group is computed.

    Attributes:
        deltas: Dampings δ_k, `[K]`, loss/param²; +inf means that the step does not move along the direction.
    """

    deltas: Tensor = field(kw_only=True)

    @classmethod
    def of(cls, directions: Directions, deltas: Tensor) -> Self:
        """Return the directions with these dampings, and with the derivatives that were computed."""
        given = {entry.name: getattr(directions, entry.name) for entry in fields(Directions) if entry.init}
        damped = cls(**given, deltas=deltas)
        damped._known.update(directions._known)
        return damped

    def select(self, indices: Sequence[int] | Tensor) -> Self:
        """Return the directions at the given indices with their dampings, in the given order."""
        chosen = torch.as_tensor(indices, dtype=torch.long, device=self.deltas.device)
        return self.of(super().select(chosen), self.deltas[chosen])

    def table(self, anchors: Tensor | None = None) -> DirectionTable:
        """Return the step along the directions, one entry for each.

        Args:
            anchors: Inner products of the directions with the anchor, `[K]`; zero by default.
        """
        return DirectionTable(
            all_evals=self.all_evals,
            evals=self.evals,
            gammas=self.loss_gammas,
            lambdas=self.loss_lambdas,
            deltas=self.deltas,
            fallbacks=self.fallbacks,
            anchors=anchors,
        )

    @property
    def coefficients(self) -> Tensor:
        """Length of a step without anchor along each direction, `-γ̄_k / (λ̄_k + δ_k)`, `[K]`, param."""
        return self.table().coefficients

    def combine(self, lengths: Tensor) -> tuple[Tensor, ...]:
        """Return `Σ_k lengths[k] e_k` in the shapes of the group's parameters."""
        return tuple(vectors[0] for vectors in self.source.move(self, lengths[:, None]))

    def step(self) -> tuple[Tensor, ...]:
        """Return the step without anchor and complement, in the shapes of the group's parameters.

        Raises:
            NonFiniteError: The step has NaN or infinite entries.
        """
        step = self.combine(self.coefficients)
        checked_length(step)
        return step


@dataclass(frozen=True, eq=False)
class Correction:
    """The part of a step that the damped curvature adds to the start.

    Attributes:
        coordinates: Coordinates `[K]` of the correction: lengths along decomposed or held directions, or the solution
            of a system.
        combine: Returns the vector with given coordinates, in the shapes of the group's parameters.
        complement_factor: Factor on the slope outside of the directions, not positive.
    """

    coordinates: Tensor
    combine: Callable[[Tensor], tuple[Tensor, ...]]
    complement_factor: float

    @classmethod
    def along(
        cls,
        table: DirectionTable,
        combine: Callable[[Tensor], tuple[Tensor, ...]],
        terms: StepTerms | None,
        projections: Tensor | None,
        complement_factor: float,
    ) -> Correction:
        """Return the correction along orthonormal directions, decomposed in this step or held from an earlier one.

        Args:
            table: The step along the directions.
            combine: Returns `Σ_k lengths[k] e_k` in the shapes of the group's parameters.
            terms: Weight decay, anchor and complement.
            projections: Inner products of the directions with parameters and anchor, `[2, K]`; `None` without terms.
            complement_factor: Factor on the slope outside of the directions, not positive.
        """
        if terms is None or projections is None:
            return cls(table.coefficients, combine, complement_factor)
        gradient = table.gammas - terms.decay * projections[0] if terms.include_complement else None
        own, anchors = projections.unbind()
        start = terms.start(own, anchors, gradient, complement_factor)
        return cls(table.coefficients - start, combine, complement_factor)

    def step(
        self,
        terms: StepTerms | None,
        gradient: Sequence[Tensor | None] | None,
        reached: Sequence[bool],
        unit: float = 1.0,
    ) -> tuple[Tensor, ...]:
        """Return the step in parameter space, in the shapes of the group's parameters.

        Args:
            terms: Weight decay, anchor and complement.
            gradient: Gradient of the loss over the unit for each parameter, if the step follows it outside of the
                coordinates' span.
            reached: For each parameter, whether the loss reaches it; others do not move.
            unit: Unit of the gradient.
        """
        moves = self.combine(self.coordinates)
        if terms is None:
            return moves
        if not (terms.decay or (gradient is not None and self.complement_factor)):
            if (anchors := terms.anchor_in(moves[0].dtype)) is None:
                return moves
            sums = torch._foreach_add(moves, anchors)
            if all(reached):
                return tuple(sums)
            return tuple(
                total if is_reached else move for total, move, is_reached in zip(sums, moves, reached, strict=True)
            )
        pairs, slopes, factor = terms.pairs(moves[0].dtype), gradient or [None] * len(moves), self.complement_factor
        return tuple(
            move + terms.start(own, anchor, None if slope is None else slope.to(move.dtype), factor, unit)
            if is_reached
            else move
            for move, (own, anchor), slope, is_reached in zip(moves, pairs, slopes, reached, strict=True)
        )


@dataclass(frozen=True)
class DecreaseLimit:
    """Limit on the decrease of the loss that a correction promises; dampings grow until it is kept.

    A loss that is never negative cannot decrease by more than itself, so that a slope that promises several times the
    loss is followed too far. Where a confident mistake has next to no curvature, damping alone may not see this.

    Attributes:
        decrease: The limit, in loss.
        factor: Factor on the dampings from one try to the next.
        largest_factor: Factor on the dampings at which the last step is taken as it is.
    """

    decrease: float
    factor: float = 4.0
    largest_factor: float = 4.0**20

    @classmethod
    def of(cls, ratio: float, loss: float, change: float) -> DecreaseLimit | None:
        """Return the limit of a group; `None` for a loss that is not positive.

        Args:
            ratio: Largest decrease, in multiples of the loss where the correction starts, or of the loss of the batch
                if that is larger.
            loss: Loss of the batch.
            change: Its change up to where the correction starts, by the quadratic model.
        """
        return cls(ratio * max(loss, loss + change)) if 0 < loss < math.inf else None

    def is_exceeded(self, promise: float) -> bool:
        """Return whether a correction promises too much."""
        return promise > self.decrease


@dataclass(frozen=True, eq=False)
class GroupStep:
    """The damped Newton step of a group.

    Attributes:
        moves: The step in parameter space, in the shapes of the group's parameters.
        summary: Figures of the step along its directions.
        reached: For each parameter, whether the loss reaches it.
        complement_factor: Factor on the slope outside of the directions, not positive.
        uniform_damping: Damping of every direction, if the step was computed without directions; `None` otherwise.
        decompose: Returns the chosen directions with their dampings; `None` if they are those of an earlier step.
        largest: Largest absolute value of the moves; `None` if it was not computed.
        damping_factor: Factor on the dampings by which a limit on the promised decrease was kept.
        model: Quadratic model of the loss along the moves; `None` if it did not come with the step.
        context: Context of the step's strategies; `None` for directions that are reused.
    """

    moves: tuple[Tensor, ...]
    summary: StepSummary
    reached: tuple[bool, ...]
    complement_factor: float
    uniform_damping: float | None = None
    decompose: Callable[[], DampedDirections] | None = None
    largest: float | None = None
    damping_factor: float = 1.0
    model: QuadraticModel | None = None
    context: Context | None = None

    @cached_property
    def directions(self) -> DampedDirections:
        """The chosen directions with their dampings; decomposed now, if the step was computed without directions."""
        assert self.decompose is not None, "the directions of an earlier step are held by the caller"
        return self.decompose()


def predicted_decrease(summary: StepSummary, lr: float) -> Tensor:
    """Return the decrease of the quadratic model of the loss along `lr` times a step, a scalar in loss."""
    return -(lr * summary.slope() + 0.5 * lr**2 * summary.curvature())


def checked_length(step: Sequence[Tensor]) -> float:
    """Return the largest absolute value of a step; this waits for the device.

    Raises:
        NonFiniteError: The step has NaN or infinite entries.
    """
    largest = float(largest_entry(step))
    if not math.isfinite(largest):
        raise step_not_finite()
    return largest


def step_not_finite() -> NonFiniteError:
    """Return the error for a step with NaN or infinite entries."""
    return NonFiniteError("the step has NaN or infinite entries. Damp more, scale the loss, or use float64.")


def largest_entry(tensors: Iterable[Tensor]) -> Tensor:
    """Return the largest absolute value of all tensors, of one device, as a scalar; NaN if there is one."""
    sizes = largest_entries(tensors)
    return torch.stack(sizes).amax() if sizes else torch.zeros(())


def total_norm(tensors: Sequence[Tensor]) -> Tensor:
    """Return the Euclidean norm of a vector in the shapes of the parameters, as a scalar."""
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(tensors))))
    return norm


def largest_entries(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Return the largest absolute value of each tensor that has entries, as scalars."""
    return list(torch._foreach_norm([tensor for tensor in tensors if tensor.numel()], float("inf")))

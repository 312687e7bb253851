"""The step with one damping δ for all directions, without eigenvectors: a Cholesky solve with the smaller matrix.

If every direction is kept and the gradient lies in their span, `g = V c`, the step is

    s = -(G + δ I)⁻¹ g = -V (VᵀV + δ I)⁻¹ c.

Levenberg (1944) and Marquardt (1963) damp least-squares problems in this way. With weight decay w, an anchor a
(`terms.py`), and τ = δ + w, it is `s = a - (G + τ I)⁻¹ (g + G a + w (θ + a))`. `GgnSide` solves this system directly.
For `GramSide` the decay is not in the span of V; with the start `p = a - w/τ (θ + a)` the step is

    s = p - V (VᵀV + τ I)⁻¹ (c + Vᵀp).

If the gradient is not in the span of V, and the complement is included, then `p = a - (g + w (θ + a)) / τ`, and c = 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ddn_core.engine.clock import StageClock
from ddn_core.engine.gram import GroupCurvature
from ddn_core.engine.quadratic import QuadraticModel
from ddn_core.engine.sides import GgnSide, GramSide, SolvedSummary
from ddn_core.engine.spectrum import check_finite, curvature_underflows
from ddn_core.engine.step import (
    Correction,
    DampedDirections,
    DecreaseLimit,
    GroupStep,
    largest_entries,
    step_not_finite,
)
from ddn_core.engine.terms import StepTerms, TermImages, inner

ROUNDING = 4.0
"""Smallest damping that a solve takes, over `√R ε trace` for R rows: rounding errors of the matrix are smaller."""

EXACT_COLUMNS = 640
"""Number of columns up to which the system is solved in float64, which then costs little."""


def solved_step(
    curvature: GroupCurvature,
    damping: float,
    decompose: Callable[[], DampedDirections],
    images: TermImages | None,
    clock: StageClock,
    limit: DecreaseLimit | None = None,
    needs_model: bool = False,
    may_be_raised: bool = False,
) -> GroupStep | None:
    """Return the step with one damping for all directions, or `None` if a linear solve cannot compute it.

    This is the case if the gradient is not in the span of V and the complement is not included, or if the damping is
    smaller than the rounding errors of the matrix and may not be raised.

    Args:
        curvature: Curvature of the group.
        damping: Damping of all directions.
        decompose: Returns the directions; called only if they are read.
        images: Weight decay and anchor, as the curvature sees them; `None` without any.
        clock: Takes the time of the stages.
        limit: Limit on the decrease that the step promises; the damping grows until it is kept.
        needs_model: Whether the model of the loss along the step is read.
        may_be_raised: Whether a damping below the rounding errors of the matrix is raised to them.
    """
    terms = None if images is None else images.terms
    in_span = curvature.gradient_coefficients is not None
    if not curvature.factors or not (in_span or (terms is not None and terms.include_complement)):
        return None
    with clock.stage("gram"):
        system = _System.of(curvature, images)
    if damping + system.decay <= 0:
        return None
    has_model, growth = limit is not None or (needs_model and not system.decay), 1.0
    with clock.stage("spectrum"):
        found = system.solution(damping, may_be_raised)
    with clock.stage("step"):
        figures = found.figures(has_model)
    least = 0.0 if system.side.matrix.dtype == torch.float64 else curvature.capture.least_curvature
    if 0 < figures.trace < least and figures.shift < least:
        raise curvature_underflows(figures.trace + figures.shift, system.side.matrix.dtype)
    if figures.has_failed or (figures.shift <= system.rounding * figures.trace and not may_be_raised):
        return None
    if figures.shift > damping + system.decay:
        damping = figures.shift - system.decay
    with clock.stage("spectrum"):
        promise = figures.promise
        while limit is not None and limit.is_exceeded(promise) and growth < limit.largest_factor:
            growth *= limit.factor
            found = system.solution(growth * damping)
            promise = float(found.model[2])
    with clock.stage("step"):
        if growth > 1:
            figures = found.figures(has_model)
        if not math.isfinite(figures.largest):
            raise step_not_finite()
        model = QuadraticModel(figures.slope, figures.curvature, figures.curvature)
        return GroupStep(
            found.moves,
            found.summary(growth * damping),
            curvature.reached,
            found.complement_factor,
            growth * damping,
            decompose,
            figures.largest,
            growth,
            model if has_model and not system.decay else None,
        )


@dataclass(frozen=True, eq=False)
class _System:
    """The linear system `(M + shift I) x = b` of a group's step, for any damping.

    Attributes:
        curvature: Curvature of the group.
        side: Matrix and gradient.
        terms: Weight decay and anchor; `None` without any.
        own: Parameters as the side represents them; `None` without weight decay.
        anchor: Anchor as the side represents it; `None` without terms.
        outside: Gradient over the unit in the shapes of the parameters, if it is not in the span of V.
    """

    curvature: GroupCurvature
    side: GramSide | GgnSide
    terms: StepTerms | None
    own: Tensor | None
    anchor: Tensor | None
    outside: tuple[Tensor, ...] | None

    @classmethod
    def of(cls, curvature: GroupCurvature, images: TermImages | None) -> _System:
        """Return the system of a group with weight decay and anchor, as the curvature sees them."""
        is_small = curvature.is_ggn_smaller
        side = GgnSide(*curvature.ggn_and_gradient) if is_small else GramSide.of(curvature)
        own = anchor = None
        if images is not None:
            anchor = images.seen.anchor.to(side.matrix.dtype)
            if images.terms.decay:
                own = images.seen.both[0].to(side.matrix.dtype)
        is_inside = is_small or curvature.gradient_coefficients is not None
        outside = None if is_inside else curvature.gradient_in_parameters()
        return cls(curvature, side, None if images is None else images.terms, own, anchor, outside)

    @property
    def decay(self) -> float:
        """Weight decay."""
        return 0.0 if self.terms is None else self.terms.decay

    @property
    def rows(self) -> int:
        """Number of rows of the matrix."""
        return len(self.side.matrix)

    @property
    def rounding(self) -> float:
        """Bound on the rounding errors of the matrix, in traces."""
        return ROUNDING * math.sqrt(self.rows) * self.curvature.precision

    def solution(self, damping: float, may_be_raised: bool = False) -> _Solution:
        """Return the solution for a damping.

        Args:
            damping: Damping of all directions.
            may_be_raised: Whether a shift below the rounding errors of the matrix is raised to them.
        """
        side, trace = self.side, self.curvature.trace
        shift: float | Tensor = damping + self.decay
        if may_be_raised:
            shift = (self.rounding * trace).clamp(min=shift)
        factor, start, right = 0.0, None, side.gradient
        if self.decay or self.outside is not None:
            factor = side.complement_factor(float(shift))
        if self.terms is not None and self.anchor is not None:
            start = side.start(self.terms, self.own, self.anchor, factor)
            right = side.right_side(self.terms, self.own, start)
        needs_float64 = self.rows <= EXACT_COLUMNS or bool(shift < 1e-3 * trace)
        coordinates, has_failed = _solve(side.matrix, shift, right, torch.float64 if needs_float64 else right.dtype)
        return _Solution(self, shift, factor, start, right, coordinates, has_failed)


@dataclass(frozen=True)
class _Figures:
    """Figures of a solution on the host.

    Attributes:
        shift: Damping plus weight decay.
        trace: Trace of the matrix.
        has_failed: Whether the solver failed, since the matrix is not positive definite.
        largest: Largest absolute value of the step.
        slope: Slope of the loss along the step; NaN if the model was not computed.
        curvature: Curvature of the loss along the step; NaN if the model was not computed.
        promise: Decrease of the loss that the correction promises; NaN if the model was not computed.
    """

    shift: float
    trace: float
    has_failed: bool
    largest: float
    slope: float
    curvature: float
    promise: float


@dataclass(frozen=True, eq=False)
class _Solution:
    """The solution of a group's system for a damping; the step is formed when it is first read.

    Attributes:
        system: The system.
        shift: Damping plus weight decay.
        complement_factor: Factor on the slope outside of the coordinates' span; 0 where there is none.
        start: Start of the step as the side represents it; `None` for zero.
        right: Right side b.
        coordinates: Solution x.
        has_failed: Whether the solver failed, a scalar.
    """

    system: _System
    shift: float | Tensor
    complement_factor: float
    start: Tensor | None
    right: Tensor
    coordinates: Tensor
    has_failed: Tensor

    @cached_property
    def moves(self) -> tuple[Tensor, ...]:
        """The step, in the shapes of the parameters."""
        system, curvature = self.system, self.system.curvature
        coordinates = -self.coordinates.to(curvature.capture.dtype)
        correction = Correction(coordinates, curvature.combine_coordinates, self.complement_factor)
        return correction.step(system.terms, system.outside, curvature.reached, curvature.unit)

    def summary(self, damping: float) -> SolvedSummary:
        """Return figures of the step along its directions, for the damping of the solution."""
        system, capture = self.system, self.system.curvature.capture
        terms = system.decay, system.own, system.anchor
        return SolvedSummary(system.side, self.coordinates, damping, *terms, capture.columns, capture.dtype)

    @cached_property
    def model(self) -> tuple[Tensor, Tensor, Tensor]:
        """Slope and curvature of the loss along the step, and the decrease that the correction promises."""
        system, outside = self.system, None
        if system.outside is not None:
            slope, unit = inner(system.outside, self.moves), system.curvature.unit
            anchor = None if system.terms is None else system.terms.anchor
            at_anchor = torch.zeros_like(slope) if anchor is None else inner(system.outside, anchor)
            outside = (slope, at_anchor) if unit == 1 else (slope * unit, at_anchor * unit)
        return system.side.model(self.coordinates, self.right, self.start, system.anchor, outside)

    def figures(self, has_model: bool) -> _Figures:
        """Return figures of the solution and its step.

        Args:
            has_model: Whether they have the model of the loss along the step.

        Raises:
            NonFiniteError: The matrix has NaN or infinite entries.
        """
        given = [self.shift] if isinstance(self.shift, Tensor) else []
        model, sizes = self.model if has_model else (), largest_entries(self.moves)
        # all are read at once, since each read waits for the device; `stack` converts them to one dtype
        read = torch.stack([self.system.curvature.trace, self.has_failed, *model, *sizes, *given]).tolist()
        shift = read.pop() if isinstance(self.shift, Tensor) else self.shift
        trace, has_failed, *others = read
        slope, curvature, promise = others[: len(model)] or [math.nan] * 3
        entries = others[len(model) :]
        largest = max(entries, default=0.0) if all(map(math.isfinite, entries)) else math.inf
        found = _Figures(shift, trace, bool(has_failed), largest, slope, curvature, promise)
        if found.has_failed or not (math.isfinite(found.trace) and math.isfinite(largest)):
            check_finite(self.system.side.matrix)
        return found


def _solve(matrix: Tensor, shift: float | Tensor, right: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return `(M + shift I)⁻¹ right`, and whether the solver failed since M is not positive definite."""
    shifted = matrix.to(dtype, copy=True)
    shifted.diagonal().add_(shift)
    factor, failed = torch.linalg.cholesky_ex(shifted)
    del shifted  # the solver copies the factor
    return torch.cholesky_solve(right.to(dtype)[:, None], factor)[:, 0].to(matrix.dtype), failed

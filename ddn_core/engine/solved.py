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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ddn_core.engine.clock import StageClock
from ddn_core.engine.gram import GroupCurvature
from ddn_core.engine.quadratic import QuadraticModel
from ddn_core.engine.source import gammas_in_span
from ddn_core.engine.spectrum import Spectrum, check_finite, eigendecompose
from ddn_core.engine.step import (
    Correction,
    DampedDirections,
    DecreaseLimit,
    DirectionTable,
    GroupStep,
    largest_entries,
    step_not_finite,
)
from ddn_core.engine.terms import StepTerms, TermImages

ROUNDING = 4.0
"""Smallest damping that a solve takes, over `√R ε trace` for R rows: rounding errors of the matrix are smaller."""

CANCELS = 100.0
"""Damping, in mean eigenvalues, up to which `M x = b - δ x` loses two digits at most."""

EXACT_COLUMNS = 640
"""Number of columns up to which the system is solved in float64, which then costs little."""


@dataclass(frozen=True, eq=False)
class GramSide:
    """The Gram matrix VᵀV: coordinates are weights of the columns of V, and Vᵀv represents a vector v.

    The gradient is either `V c`, with `outside_gradient` zero, or a vector outside the span of V, with c zero.

    Attributes:
        matrix: VᵀV, `[R, R]`.
        gradient: Coefficients c, `[R]`.
        outside_gradient: Vᵀg for a gradient that is not in the span of V, `[R]`; `None` for one that is.
    """

    matrix: Tensor
    gradient: Tensor
    outside_gradient: Tensor | None = None

    @classmethod
    def of(cls, curvature: GroupCurvature) -> GramSide:
        """Return this side of the curvature of a group."""
        if (coefficients := curvature.gradient_coefficients) is not None:
            return cls(curvature.gram, coefficients)
        return cls(curvature.gram, curvature.capture.zeros(curvature.capture.columns), curvature.projected_gradient)

    def start(self, terms: StepTerms, own: Tensor | None, anchor: Tensor, factor: float) -> Tensor:
        """Return Vᵀp for the start p of the step, given Vᵀθ, Vᵀa, and the factor on the slope outside of the span."""
        return terms.start(own, anchor, self.outside_gradient, factor)

    def right_side(self, terms: StepTerms, own: Tensor | None, start: Tensor) -> Tensor:
        """Return `c + Vᵀp`."""
        return self.gradient + start

    def complement_factor(self, shift: float) -> float:
        """Return the factor on the slope outside of the coordinates' span."""
        return -1 / shift

    def projections(self, spectrum: Spectrum, vectors: Tensor) -> Tensor:
        """Return the inner products of the directions with vectors, `u_kᵀ Vᵀv / √λ_k`, `[..., K]`."""
        return vectors @ spectrum.evecs / spectrum.evals.sqrt()

    def gammas(self, spectrum: Spectrum) -> Tensor:
        """Return the directional gradients of the loss, `[K]`."""
        inside = gammas_in_span(spectrum.evecs, spectrum.evals, spectrum.all_evals[-1], self.gradient, self.matrix)
        outside = self.outside_gradient
        return inside if outside is None else inside + self.projections(spectrum, outside)

    def norm(self, solved: SolvedSummary) -> Tensor:
        """Return the Euclidean norm of the step `-V solution`."""
        return (solved.solution @ solved.image).clamp(min=0).sqrt()

    def slope(self, solved: SolvedSummary) -> Tensor:
        """Return the derivative of the loss along the step."""
        return -(self.gradient @ solved.image)

    def curvature(self, solved: SolvedSummary) -> Tensor:
        """Return the curvature of the quadratic model along the step."""
        return solved.image.square().sum()


@dataclass(frozen=True, eq=False)
class GgnSide:
    """The GGN V Vᵀ: coordinates are the entries of the parameters.

    Attributes:
        matrix: V Vᵀ, `[P, P]`.
        gradient: Gradient of the loss, `[P]`.
    """

    matrix: Tensor
    gradient: Tensor

    def start(self, terms: StepTerms, own: Tensor | None, anchor: Tensor, factor: float) -> Tensor:
        """Return the anchor: this side has all directions."""
        return anchor

    def right_side(self, terms: StepTerms, own: Tensor | None, start: Tensor) -> Tensor:
        """Return `g + G a + w (θ + a)`."""
        slope = self.gradient + self.matrix @ start
        return slope if own is None else slope + terms.decay * (own + start)

    def complement_factor(self, shift: float) -> float:
        """Return 0: there is nothing outside of the coordinates' span."""
        return 0.0

    def projections(self, spectrum: Spectrum, vectors: Tensor) -> Tensor:
        """Return the inner products of the directions with vectors, `e_kᵀ v`, `[..., K]`."""
        return vectors @ spectrum.evecs

    def gammas(self, spectrum: Spectrum) -> Tensor:
        """Return the directional gradients of the loss, `[K]`."""
        return self.projections(spectrum, self.gradient)

    def norm(self, solved: SolvedSummary) -> Tensor:
        """Return the Euclidean norm of the step `-solution`."""
        return solved.solution.square().sum().sqrt()

    def slope(self, solved: SolvedSummary) -> Tensor:
        """Return the derivative of the loss along the step."""
        return -(self.gradient @ solved.solution)

    def curvature(self, solved: SolvedSummary) -> Tensor:
        """Return the curvature of the quadratic model along the step."""
        return solved.solution @ solved.image


@dataclass(frozen=True, eq=False)
class SolvedSummary:
    """Numbers of a solved step; its directions are decomposed only if they are read.

    Attributes:
        side: Matrix and gradient.
        solution: Solution of the system.
        damping: Damping of all directions.
        decay: Weight decay.
        own: Parameters as the side represents them; `None` without weight decay.
        anchor: Anchor as the side represents it; `None` without terms.
        columns: Number of columns of V.
        dtype: Dtype of the numbers; matrix and solution can be more precise.
    """

    side: GramSide | GgnSide
    solution: Tensor
    damping: float
    decay: float
    own: Tensor | None
    anchor: Tensor | None
    columns: int
    dtype: torch.dtype

    @property
    def count(self) -> int:
        """Largest possible number of directions, min(R, P)."""
        return len(self.side.matrix)

    @cached_property
    def table(self) -> DirectionTable:
        """One entry for each direction; decomposed when first read."""
        side, precision = self.side, torch.finfo(self.dtype).eps
        spectrum = eigendecompose(side.matrix, precision=precision).padded(self.columns)
        gammas, anchors = side.gammas(spectrum), None
        if self.own is not None:
            gammas = gammas + self.decay * side.projections(spectrum, self.own)
        if self.anchor is not None:
            anchors = side.projections(spectrum, self.anchor).to(self.dtype)
        rounded = spectrum.to(self.dtype)
        return DirectionTable(
            all_evals=rounded.all_evals,
            evals=rounded.evals,
            gammas=gammas.to(self.dtype),
            lambdas=rounded.evals + self.decay,
            deltas=torch.full_like(rounded.evals, self.damping),
            fallbacks=rounded.fallbacks,
            anchors=anchors,
        )

    def norm(self) -> Tensor:
        """Return the Euclidean norm of the step along the directions, a scalar in param."""
        return self.table.norm() if self.anchor is not None else self.side.norm(self).to(self.dtype)

    def slope(self) -> Tensor:
        """Return the derivative of the loss along that step, a scalar in loss."""
        return self.table.slope() if self.anchor is not None else self.side.slope(self).to(self.dtype)

    def curvature(self) -> Tensor:
        """Return the curvature of the quadratic model along that step, a scalar in loss."""
        return self.table.curvature() if self.anchor is not None else self.side.curvature(self).to(self.dtype)

    @cached_property
    def image(self) -> Tensor:
        """The matrix times the solution of a step without terms."""
        if self.damping <= CANCELS * float(self.side.matrix.diagonal().mean()):
            return self.side.gradient - self.damping * self.solution
        return self.side.matrix @ self.solution


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
        outside: Gradient in the shapes of the parameters, if it is not in the span of V.
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
            anchor = (images.flat_anchor if is_small else images.projected_anchor).to(side.matrix.dtype)
            if images.terms.decay:
                own = (images.flat if is_small else images.projected)[0].to(side.matrix.dtype)
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
        return correction.step(system.terms, system.outside, curvature.reached)

    def summary(self, damping: float) -> SolvedSummary:
        """Return figures of the step along its directions, for the damping of the solution."""
        system, capture = self.system, self.system.curvature.capture
        terms = system.decay, system.own, system.anchor
        return SolvedSummary(system.side, self.coordinates, damping, *terms, capture.columns, capture.dtype)

    @cached_property
    def model(self) -> tuple[Tensor, Tensor, Tensor]:
        """Slope and curvature of the loss along the step, and the decrease that the correction promises.

        The promise is `-(g + G a)ᵀ (s - a)` for the step s: the correction starts at the anchor a.
        """
        system, x = self.system, self.coordinates
        side, anchor, image = system.side, system.anchor, system.side.matrix @ x
        starts_at_anchor = self.start is anchor
        if isinstance(side, GgnSide):
            whole = -x if anchor is None else anchor - x
            # the right side has the decay, too, and the promise is that of the loss alone
            slope = side.gradient + side.matrix @ anchor if anchor is not None and system.decay else self.right
            return side.gradient @ whole, whole @ (side.matrix @ whole), slope @ x
        whole = -image if self.start is None else self.start - image  # Vᵀs
        curvature = whole @ whole
        if starts_at_anchor and system.outside is None:
            return side.gradient @ whole, curvature, self.right @ image
        assert anchor is not None, "only terms move the start away from zero"
        if system.outside is None:
            return side.gradient @ whole, curvature, (side.gradient + anchor) @ (anchor - whole)
        slope = from_anchor = _inner(system.outside, self.moves)
        if system.terms is not None and system.terms.anchor is not None:
            from_anchor = slope - _inner(system.outside, system.terms.anchor)
        return slope, curvature, anchor @ (anchor - whole) - from_anchor

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


def _inner(some: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
    return torch.stack([(one * other).sum() for one, other in zip(some, others, strict=True)]).sum()


def _solve(matrix: Tensor, shift: float | Tensor, right: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return `(M + shift I)⁻¹ right`, and whether the solver failed since M is not positive definite."""
    shifted = matrix.to(dtype, copy=True)
    shifted.diagonal().add_(shift)
    factor, failed = torch.linalg.cholesky_ex(shifted)
    del shifted  # the solver copies the factor
    return torch.cholesky_solve(right.to(dtype)[:, None], factor)[:, 0].to(matrix.dtype), failed

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
from dataclasses import dataclass, replace
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
    largest_entry,
    step_not_finite,
)
from ddn_core.engine.terms import StepTerms, TermImages

ROUNDING = 4.0
"""Bound on the damping, over `√R ε trace` for R rows; a step with a smaller damping is computed from eigenvectors."""

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

    def right_side(self, terms: StepTerms, vectors: Tensor, factor: float) -> Tensor:
        """Return `c + Vᵀp`, with the start p of the step."""
        return self.gradient + terms.start(vectors, self.outside_gradient, factor)

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

    def right_side(self, terms: StepTerms, vectors: Tensor, factor: float) -> Tensor:
        """Return `g + G a + w (θ + a)`: this side has all directions, so the start is the anchor."""
        return self.gradient + self.matrix @ vectors[1] + terms.decay * vectors.sum(0)

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
        vectors: Parameters and anchor as the side represents them, `[2, ...]`; `None` without terms.
        columns: Number of columns of V.
        dtype: Dtype of the numbers; matrix and solution can be more precise.
    """

    side: GramSide | GgnSide
    solution: Tensor
    damping: float
    decay: float
    vectors: Tensor | None
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
        if self.vectors is not None:
            own, anchor = side.projections(spectrum, self.vectors)
            gammas, anchors = gammas + self.decay * own, anchor.to(self.dtype)
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
        return self.table.norm() if self.vectors is not None else self.side.norm(self).to(self.dtype)

    def slope(self) -> Tensor:
        """Return the derivative of the loss along that step, a scalar in loss."""
        return self.table.slope() if self.vectors is not None else self.side.slope(self).to(self.dtype)

    def curvature(self) -> Tensor:
        """Return the curvature of the quadratic model along that step, a scalar in loss."""
        return self.table.curvature() if self.vectors is not None else self.side.curvature(self).to(self.dtype)

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
) -> GroupStep | None:
    """Return the step with one damping for all directions, or `None` if a linear solve cannot compute it.

    This is the case if the gradient is not in the span of V and the complement is not included, or if the matrix is too
    ill-conditioned.

    Args:
        curvature: Curvature of the group.
        damping: Damping of all directions.
        decompose: Returns the directions; called only if they are read.
        images: Weight decay and anchor, as the curvature sees them; `None` without any.
        clock: Takes the time of the stages.
        limit: Limit on the decrease that the step promises; the damping grows until it is kept.
        needs_model: Whether the model of the loss along the step is read.
    """
    terms = None if images is None else images.terms
    in_span = curvature.gradient_coefficients is not None
    if not curvature.factors or not (in_span or (terms is not None and terms.include_complement)):
        return None
    with clock.stage("gram"):
        is_small = curvature.is_ggn_smaller
        side = GgnSide(*curvature.ggn_and_gradient) if is_small else GramSide.of(curvature)
        vectors = None
        if images is not None:
            vectors = (images.flat if is_small else images.projected).to(side.matrix.dtype)
        outside = None if in_span or is_small else curvature.gradient_in_parameters()
    system = _System(curvature, side, terms, vectors, outside)
    factor = 1.0
    while True:
        found = system.solved(factor * damping, decompose, clock, limit, needs_model)
        if found is None:
            return None
        step, promise = found
        if limit is None or not limit.is_exceeded(promise) or factor >= limit.largest_factor:
            return replace(step, damping_factor=factor)
        factor *= limit.factor


@dataclass(frozen=True, eq=False)
class _System:
    """The linear system of a group's step, for any damping.

    Attributes:
        curvature: Curvature of the group.
        side: Matrix and gradient.
        terms: Weight decay and anchor.
        vectors: Parameters and anchor as the side represents them, `[2, ...]`; `None` without terms.
        outside: Gradient in the shapes of the parameters, if it is not in the span of V.
    """

    curvature: GroupCurvature
    side: GramSide | GgnSide
    terms: StepTerms | None
    vectors: Tensor | None
    outside: tuple[Tensor, ...] | None

    def solved(
        self,
        damping: float,
        decompose: Callable[[], DampedDirections],
        clock: StageClock,
        limit: DecreaseLimit | None,
        needs_model: bool,
    ) -> tuple[GroupStep, float] | None:
        """Return the step for a damping, and the decrease that it promises; `None` if the solver failed."""
        curvature, side, terms, vectors = self.curvature, self.side, self.terms, self.vectors
        matrix, dtype = side.matrix, curvature.capture.dtype
        decay = 0.0 if terms is None else terms.decay
        shift = damping + decay
        if shift <= 0:
            return None
        with clock.stage("spectrum"):
            trace = matrix.diagonal().sum()
            factor, right = (0.0 if isinstance(side, GgnSide) else -1 / shift), side.gradient
            if terms is not None and vectors is not None:
                right = side.right_side(terms, vectors, factor)
            needs_float64 = len(matrix) <= EXACT_COLUMNS or shift < 1e-3 * float(trace)
            solution, failed = _solve(matrix, shift, right, torch.float64 if needs_float64 else matrix.dtype)
        with clock.stage("step"):
            correction = Correction(-solution.to(dtype), curvature.combine_coordinates, factor)
            moves = correction.step(terms, self.outside, curvature.reached)
            # all figures are read at once, since each read waits for the device
            figures = [matrix.sum(), trace, failed, largest_entry(moves)]
            if limit is not None or (needs_model and not decay):
                figures += self._model(solution, right, moves)
            total, size, has_failed, largest, *model = torch.stack([one.double() for one in figures]).tolist()
        if not math.isfinite(total):
            check_finite(matrix)
        if has_failed or shift <= ROUNDING * len(matrix) ** 0.5 * curvature.precision * size:
            return None
        if not math.isfinite(largest):
            raise step_not_finite()
        summary = SolvedSummary(side, solution, damping, decay, vectors, curvature.capture.columns, dtype)
        along = QuadraticModel(model[0], model[1], model[1]) if model and not decay else None
        step = GroupStep(moves, summary, curvature.reached, factor, damping, decompose, largest, model=along)
        return step, model[2] if model else 0.0

    def _model(self, solution: Tensor, right: Tensor, moves: tuple[Tensor, ...]) -> list[Tensor]:
        """Return slope and curvature of the loss along the step, and the decrease that the correction promises."""
        side = self.side
        image = side.matrix @ solution
        anchor = torch.zeros_like(right) if self.vectors is None else self.vectors[1]
        if isinstance(side, GgnSide):
            whole = anchor - solution
            slope = side.gradient + side.matrix @ anchor  # of the loss alone, where the correction starts
            return [side.gradient @ whole, whole @ (side.matrix @ whole), slope @ solution]
        start = right - side.gradient  # Vᵀp
        whole = start - image  # Vᵀs
        if self.outside is None:
            slope, from_anchor = side.gradient @ whole, side.gradient @ (whole - anchor)
        else:
            anchors = None if self.terms is None else self.terms.anchor
            slope = _inner(self.outside, moves)
            from_anchor = slope if anchors is None else slope - _inner(self.outside, anchors)
        return [slope, whole.square().sum(), -(from_anchor + anchor @ (whole - anchor))]


def _inner(some: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
    return torch.stack([(one * other).sum() for one, other in zip(some, others, strict=True)]).sum()


def _solve(matrix: Tensor, shift: float, right: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return `(M + shift I)⁻¹ right`, and whether the solver failed since M is not positive definite."""
    shifted = matrix.to(dtype, copy=True)
    shifted.diagonal().add_(shift)
    factor, failed = torch.linalg.cholesky_ex(shifted)
    del shifted  # the solver copies the factor
    return torch.cholesky_solve(right.to(dtype)[:, None], factor)[:, 0].to(matrix.dtype), failed

"""The two matrices from which a step with one damping is solved, and the figures of such a step along directions.

`GramSide` solves with VᵀV in coordinates of the columns of V, `GgnSide` with V Vᵀ in those of the parameters; the
smaller one is taken. `solved.py` has the system and its solution. Directions are decomposed only if they are read.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ddn_core.engine.gram import GroupCurvature
from ddn_core.engine.source import gammas_in_span
from ddn_core.engine.spectrum import Spectrum, eigendecompose
from ddn_core.engine.step import DirectionTable
from ddn_core.engine.terms import StepTerms

CANCELS = 100.0
"""Damping, in mean eigenvalues, up to which `M x = b - δ x` loses two digits at most."""


@dataclass(frozen=True, eq=False)
class GramSide:
    """The Gram matrix VᵀV: coordinates are weights of the columns of V, and Vᵀv represents a vector v.

    The gradient is either `V c`, with `outside_gradient` zero, or a vector outside the span of V, with c zero.

    Attributes:
        matrix: VᵀV, `[R, R]`.
        gradient: Coefficients c, `[R]`.
        outside_gradient: Vᵀg over the unit for a gradient that is not in the span of V, `[R]`; `None` for one that is.
        unit: Unit of this gradient.
    """

    matrix: Tensor
    gradient: Tensor
    outside_gradient: Tensor | None = None
    unit: float = 1.0

    @classmethod
    def of(cls, curvature: GroupCurvature) -> GramSide:
        """Return this side of the curvature of a group."""
        if (coefficients := curvature.gradient_coefficients) is not None:
            return cls(curvature.gram, coefficients)
        zeros = curvature.capture.zeros(curvature.capture.columns)
        return cls(curvature.gram, zeros, curvature.projected_gradient, curvature.unit)

    def start(self, terms: StepTerms, own: Tensor | None, anchor: Tensor, factor: float) -> Tensor:
        """Return Vᵀp for the start p of the step, given Vᵀθ, Vᵀa, and the factor on the slope outside of the span."""
        return terms.start(own, anchor, self.outside_gradient, factor, self.unit)

    def right_side(self, terms: StepTerms, own: Tensor | None, start: Tensor) -> Tensor:
        """Return `c + Vᵀp`."""
        return self.gradient + start

    def complement_factor(self, shift: float) -> float:
        """Return the factor on the slope outside of the coordinates' span."""
        return -1 / shift

    def model(
        self,
        x: Tensor,
        right: Tensor,
        start: Tensor | None,
        anchor: Tensor | None,
        outside: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return slope and curvature of the loss along a step, and the decrease that its correction promises.

        The promise is `-(g + G a)ᵀ (s - a)` for the step s, since the correction starts at the anchor a.

        Args:
            x: Solution of the system.
            right: Its right side.
            start: Vᵀp for the start p of the step; `None` for zero.
            anchor: Vᵀa; `None` for zero.
            outside: Inner products of the gradient with step and anchor, if it is not in the span of V.
        """
        image = self.matrix @ x
        whole = -image if start is None else start - image  # Vᵀs
        curvature = whole @ whole
        if start is anchor and outside is None:
            return self.gradient @ whole, curvature, right @ image
        assert anchor is not None, "only terms move the start away from zero"
        if outside is None:
            return self.gradient @ whole, curvature, (self.gradient + anchor) @ (anchor - whole)
        slope, at_anchor = outside
        return slope, curvature, anchor @ (anchor - whole) - (slope - at_anchor)

    def projections(self, spectrum: Spectrum, vectors: Tensor) -> Tensor:
        """Return the inner products of the directions with vectors, `u_kᵀ Vᵀv / √λ_k`, `[..., K]`."""
        return vectors @ spectrum.evecs / spectrum.evals.sqrt()

    def gammas(self, spectrum: Spectrum) -> Tensor:
        """Return the directional gradients of the loss, `[K]`."""
        inside = gammas_in_span(spectrum.evecs, spectrum.evals, spectrum.all_evals[-1], self.gradient, self.matrix)
        outside = self.outside_gradient
        return inside if outside is None else inside + self.unit * self.projections(spectrum, outside)

    def norm(self, solved: SolvedSummary) -> Tensor:
        """Return the Euclidean norm of the step `-V solution`."""
        return (solved.solution @ solved.image).clamp(min=0).sqrt()

    def slope(self, solved: SolvedSummary) -> Tensor:
        """Return the derivative of the loss along the step."""
        return -(self.gradient * solved.image).sum(dtype=torch.float64)

    def curvature(self, solved: SolvedSummary) -> Tensor:
        """Return the curvature of the quadratic model along the step."""
        return solved.image.square().sum(dtype=torch.float64)


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

    def model(
        self,
        x: Tensor,
        right: Tensor,
        start: Tensor | None,
        anchor: Tensor | None,
        outside: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the same figures; this side has no part outside, and its steps start at the anchor."""
        whole = -x if anchor is None else anchor - x
        slope = self.gradient if anchor is None else self.gradient + self.matrix @ anchor  # of the loss alone
        return self.gradient @ whole, whole @ (self.matrix @ whole), slope @ x

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
        return self.table.slope() if self.anchor is not None else self.side.slope(self)

    def curvature(self) -> Tensor:
        """Return the curvature of the quadratic model along that step, a scalar in loss."""
        return self.table.curvature() if self.anchor is not None else self.side.curvature(self)

    @cached_property
    def image(self) -> Tensor:
        """The matrix times the solution of a step without terms."""
        matrix = self.side.matrix
        largest = CANCELS * float(matrix.diagonal().mean(dtype=torch.float64))
        if self.damping <= min(largest, torch.finfo(matrix.dtype).max):
            return self.side.gradient - self.damping * self.solution
        return matrix @ self.solution

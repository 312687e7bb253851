"""The step with one damping δ for all directions, without eigenvectors: a Cholesky solve.

Where every direction is kept and the gradient lies in their span, `g = V c`, the step is

    s = -(G + δ I)⁻¹ g = -V (VᵀV + δ I)⁻¹ c,

of which the smaller matrix is factorized. Levenberg (1944) and Marquardt (1963) damp least-squares problems so. With
weight decay w and an anchor a (`pull.py`), and τ = δ + w, it is

    s = a - (G + τ I)⁻¹ (g + G a + w (θ + a))
      = a - w/τ (θ + a) - V (VᵀV + τ I)⁻¹ (c + Vᵀa - w/τ Vᵀ(θ + a)).

Where the gradient is not in the span of V, and its rest is wanted too, it is, with u = g + w (θ + a),

    s = a - u/τ - V (VᵀV + τ I)⁻¹ (Vᵀa - Vᵀu/τ).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ddn_core.engine.clock import StageClock
from ddn_core.engine.gram import GroupCurvature
from ddn_core.engine.pull import Pull
from ddn_core.engine.source import gammas_in_span
from ddn_core.engine.spectrum import Spectrum, check_finite, eigendecompose
from ddn_core.engine.step import DampedDirections, checked_step, predicted_decrease

ROUNDING = 4.0
"""Rounding of a matrix of R rows, over `√R ε trace`: dampings below it are left to the eigenvectors."""

CANCELS = 100.0
"""Damping, in mean eigenvalues, up to which `M x = b - δ x` loses two digits at most."""

EXACT_COLUMNS = 640
"""Number of columns up to which the system is solved in float64, which then costs little."""


@dataclass(frozen=True, eq=False)
class SolvedSpectrum:
    """The spectrum of a solved step, computed only if it is read.

    Attributes:
        matrix: Gram matrix or GGN.
        right: What gives the gradient of the loss: c, or Vᵀg, or g.
        solution: What was solved for.
        damping: Damping of all directions.
        decay: Weight decay.
        pulled: Vᵀθ and Vᵀa, `[R, 2]`, or θ and a, `[P, 2]`; `None` without decay and anchor.
        on_parameters: Whether the matrix is the GGN.
        in_span: Whether the gradient is in the span of V.
        columns: Number of columns of V.
        dtype: Dtype of what is told; matrix and sides can be more precise.
    """

    matrix: Tensor
    right: Tensor
    solution: Tensor
    damping: float
    decay: float
    pulled: Tensor | None
    on_parameters: bool
    in_span: bool
    columns: int
    dtype: torch.dtype

    def right_side(self) -> Tensor:
        """Return what the matrix, with damping and decay, is solved for: the last factor of the formulas at the top."""
        if self.pulled is None:
            return self.right
        own, anchor = self.pulled.unbind(1)
        if self.on_parameters:
            return self.right + self.matrix @ anchor + self.decay * (own + anchor)
        pulls, total = self.decay * (own + anchor), self.damping + self.decay
        return (self.right if self.in_span else -self.right / total) + anchor - pulls / total

    @cached_property
    def _spectrum(self) -> Spectrum:
        return eigendecompose(self.matrix, precision=torch.finfo(self.dtype).eps).padded(self.columns)

    @property
    def count(self) -> int:
        """Number of directions that there can be."""
        return len(self.matrix)

    @property
    def all_evals(self) -> Tensor:
        """Eigenvalues, ascending, loss/param²."""
        return self._spectrum.all_evals.to(self.dtype)

    @property
    def evals(self) -> Tensor:
        """Numerically nonzero eigenvalues, `[K]`, loss/param²."""
        return self._spectrum.evals.to(self.dtype)

    @cached_property
    def gammas(self) -> Tensor:
        """Directional gradients of the loss along them, `[K]`, loss/param."""
        evecs = self._spectrum.evecs
        if self.on_parameters or not len(self.evals):
            gammas = evecs.T @ self.right
        elif not self.in_span:
            gammas = evecs.T @ self.right / self.evals.sqrt()
        else:
            gammas = gammas_in_span(evecs, self.evals, self.all_evals[-1], self.right, self.matrix)
        gammas = gammas.to(self.dtype)
        return gammas if self._along is None else gammas + self.decay * self._along[0]

    @property
    def lambdas(self) -> Tensor:
        """Directional curvatures of the loss along them, `[K]`, loss/param²."""
        return self.evals + self.decay

    @property
    def deltas(self) -> Tensor:
        """Their dampings, `[K]`, loss/param²."""
        return torch.full_like(self.evals, self.damping)

    @property
    def coefficients(self) -> Tensor:
        """Lengths of the step along them, `[K]`, param."""
        anchors = torch.zeros_like(self.evals) if self._along is None else self._along[1]
        return anchors - (self.gammas + self.lambdas * anchors) / (self.lambdas + self.damping)

    @property
    def fallbacks(self) -> tuple[str, ...]:
        """What the eigensolver had to try beyond the first attempt."""
        return self._spectrum.fallbacks

    def norm(self) -> Tensor:
        """Return the Euclidean norm of the step, a scalar in param; without what lies in no direction."""
        if self.pulled is not None:
            return self.coefficients.square().sum().sqrt()
        if self.on_parameters:
            return self.solution.square().sum().sqrt().to(self.dtype)
        return (self.solution @ self._image).clamp(min=0).sqrt()

    def slope(self) -> Tensor:
        """Return the derivative of the loss along the step, a scalar in loss; without what lies in no direction."""
        if self.pulled is not None:
            return (self.gammas * self.coefficients).sum()
        return -(self.right @ (self.solution if self.on_parameters else self._image)).to(self.dtype)

    def bend(self) -> Tensor:
        """Return the curvature of the quadratic model along the step; without what lies in no direction."""
        if self.pulled is not None:
            return (self.lambdas * self.coefficients.square()).sum()
        bend = self.solution @ self._image if self.on_parameters else self._image.square().sum()
        return bend.to(self.dtype)

    @cached_property
    def _image(self) -> Tensor:
        """The matrix times the solution: what is solved for, less the damping's part, where that does not cancel."""
        mean = float(self.matrix.diagonal().mean())
        if self.pulled is None and self.damping <= CANCELS * mean:
            return self.right - self.damping * self.solution
        return self.matrix @ self.solution

    @cached_property
    def _along(self) -> Tensor | None:
        """e_kᵀ θ and e_kᵀ a, `[2, K]`."""
        if self.pulled is None:
            return None
        along = (self._spectrum.evecs.T @ self.pulled).T.to(self.dtype)
        return along if self.on_parameters else along / self.evals.sqrt()


@dataclass(frozen=True, eq=False)
class SolvedStep:
    """A step with one damping for all directions.

    Attributes:
        curvature: Curvature of the group.
        spectral: Matrix and right-hand side, and their spectrum if it is read.
        decompose: Gives the directions, if they are read.
        pull: Weight decay and memory, if there are any.
    """

    curvature: GroupCurvature
    spectral: SolvedSpectrum
    decompose: Callable[[], DampedDirections]
    pull: Pull | None = None

    @classmethod
    def of(
        cls,
        curvature: GroupCurvature,
        damping: float,
        decompose: Callable[[], DampedDirections],
        pull: Pull | None,
        clock: StageClock,
    ) -> SolvedStep | None:
        """Return the step, or `None` where a solve does not give it.

        The gradient is not in the span, and its rest is not wanted; or the matrix is too ill-conditioned.
        """
        in_span = curvature.gradient_coefficients is not None
        if not curvature.factors or not (in_span or (pull is not None and pull.rest)):
            return None
        with clock.stage("gram"):
            matrix, right = _matrix_and_right_side(curvature)
        check_finite(matrix)
        decay = 0.0 if pull is None else pull.decay
        size, largest = len(matrix), float(matrix.diagonal().sum())
        if damping + decay <= ROUNDING * size**0.5 * curvature.precision * largest:
            return None
        with clock.stage("spectrum"):
            exact = size <= EXACT_COLUMNS or damping + decay < 1e-3 * largest
            shifted = matrix.to(torch.float64 if exact else matrix.dtype, copy=True)
            shifted.diagonal().add_(damping + decay)
            factor, failed = torch.linalg.cholesky_ex(shifted)
            if bool(failed):
                return None
            told = SolvedSpectrum(
                matrix=matrix,
                right=right,
                solution=right,
                damping=damping,
                decay=decay,
                pulled=None if pull is None else _pulled(curvature, pull, matrix.dtype),
                on_parameters=curvature.is_ggn_smaller,
                in_span=in_span,
                columns=curvature.capture.columns,
                dtype=curvature.capture.dtype,
            )
            wanted = told.right_side()
            solution = torch.cholesky_solve(wanted.to(shifted.dtype)[:, None], factor)[:, 0].to(matrix.dtype)
        return cls(curvature, replace(told, solution=solution), decompose, pull)

    @property
    def uniform_damping(self) -> float:
        """The damping of every direction."""
        return self.spectral.damping

    @cached_property
    def directions(self) -> DampedDirections:
        """The directions with their dampings; computed now."""
        return self.decompose()

    def step(self) -> tuple[Tensor, ...]:
        """Return the step in parameter space, in the shapes of the group's parameters.

        Raises:
            NonFiniteError: The step has a NaN or an infinity in it.
        """
        told, dtype = self.spectral, self.curvature.capture.dtype
        solution = told.solution.to(dtype)
        if told.on_parameters:
            moves = self.curvature.unflatten(-solution[None])
        else:
            moves = self.curvature.combine(-solution[:, None])
        along = [move[0] for move in moves]
        if self.pull is None:
            return checked_step(along)
        gradient = None if told.in_span else self.curvature.gradient_in_parameters()
        factor = 0.0 if told.on_parameters else -1 / (told.decay + told.damping)
        outside = self.pull.outside(gradient, dtype)
        return checked_step(self.pull.beside(along, outside, factor, self.curvature.capture.reached))

    def step_norm(self) -> Tensor:
        """Return the Euclidean norm of the step, a scalar in param."""
        return self.spectral.norm()

    def predicted_decrease(self, lr: float = 1.0) -> Tensor:
        """Return by how much the quadratic model of the loss decreases along `lr` times the step, a scalar in loss."""
        return predicted_decrease(self.spectral, lr)


def _matrix_and_right_side(curvature: GroupCurvature) -> tuple[Tensor, Tensor]:
    """Return the smaller matrix, and c, Vᵀg where there is no c, or g."""
    if curvature.is_ggn_smaller:
        return curvature.ggn_and_gradient
    span = curvature.gradient_coefficients
    return curvature.gram, curvature.projected_gradient if span is None else span


def _pulled(curvature: GroupCurvature, pull: Pull, dtype: torch.dtype) -> Tensor:
    """Return Vᵀθ and Vᵀa, `[R, 2]`, or θ and a themselves, `[P, 2]`."""
    vectors = pull.vectors(curvature.capture.dtype)
    return (curvature.flatten(vectors).T if curvature.is_ggn_smaller else curvature.project(vectors)).to(dtype)

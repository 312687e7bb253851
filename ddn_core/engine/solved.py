"""The step with one damping δ for all directions, without eigenvectors: a Cholesky solve.

Where every direction is kept and the gradient lies in their span, `g = V c`, the step is

    s = -(G + δ I)⁻¹ g = -V (VᵀV + δ I)⁻¹ c,

of which the smaller matrix is factorized. Levenberg (1944) and Marquardt (1963) damp least-squares problems so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ddn_core.engine.gram import GroupCurvature
from ddn_core.engine.source import gammas_in_span
from ddn_core.engine.spectrum import Spectrum, check_finite, eigendecompose
from ddn_core.engine.step import DampedDirections, checked_step

EXACT_COLUMNS = 640
"""Number of columns up to which the system is solved in float64, which then costs little."""


@dataclass(frozen=True, eq=False)
class SolvedSpectrum:
    """The spectrum of a solved step, computed only if it is read.

    Attributes:
        matrix: Gram matrix or GGN.
        right: What the step solves for: c, or g.
        damping: Damping of all directions.
        on_parameters: Whether the matrix is the GGN.
        columns: Number of columns of V.
    """

    matrix: Tensor
    right: Tensor
    damping: float
    on_parameters: bool
    columns: int

    @cached_property
    def _spectrum(self) -> Spectrum:
        return eigendecompose(self.matrix).padded(self.columns)

    @property
    def count(self) -> int:
        """Number of directions that there can be."""
        return len(self.matrix)

    @property
    def all_evals(self) -> Tensor:
        """Eigenvalues, ascending, loss/param²."""
        return self._spectrum.all_evals

    @property
    def evals(self) -> Tensor:
        """Numerically nonzero eigenvalues, `[K]`, loss/param²."""
        return self._spectrum.evals

    @property
    def deltas(self) -> Tensor:
        """Their dampings, `[K]`, loss/param²."""
        return torch.full_like(self.evals, self.damping)

    @property
    def coefficients(self) -> Tensor:
        """Lengths of the step along them, `[K]`, param."""
        evecs = self._spectrum.evecs
        if self.on_parameters or not len(self.evals):
            gammas = evecs.T @ self.right
        else:
            gammas = gammas_in_span(evecs, self.evals, self.all_evals[-1], self.right, self.matrix)
        return -gammas / (self.evals + self.damping)

    @property
    def fallbacks(self) -> tuple[str, ...]:
        """What the eigensolver had to try beyond the first attempt."""
        return self._spectrum.fallbacks


@dataclass(frozen=True, eq=False)
class SolvedStep:
    """A step with one damping for all directions.

    Attributes:
        curvature: Curvature of the group.
        spectral: Matrix and right-hand side, and their spectrum if it is read.
        solution: `(VᵀV + δ I)⁻¹ c`, `[R]`, or `(G + δ I)⁻¹ g`, `[P]`.
        decompose: Gives the directions, if they are read.
    """

    curvature: GroupCurvature
    spectral: SolvedSpectrum
    solution: Tensor
    decompose: Callable[[], DampedDirections]

    @classmethod
    def of(
        cls, curvature: GroupCurvature, damping: float, decompose: Callable[[], DampedDirections]
    ) -> SolvedStep | None:
        """Return the step, or `None` where a solve does not give it: the matrix is too ill-conditioned."""
        span = curvature.span
        if span is None or not curvature.factors:
            return None
        on_parameters = curvature.size < curvature.capture.columns
        if on_parameters:
            columns = curvature.formed()
            matrix, right = columns.T @ columns, columns.T @ span
        else:
            matrix, right = curvature.gram, span
        check_finite(matrix)
        size, largest = len(matrix), float(matrix.diagonal().sum())
        if damping <= size * torch.finfo(matrix.dtype).eps * largest:
            return None
        exact = size <= EXACT_COLUMNS or damping < 1e-3 * largest
        shifted = matrix.to(torch.float64 if exact else matrix.dtype, copy=True)
        shifted.diagonal().add_(damping)
        factor, failed = torch.linalg.cholesky_ex(shifted)
        if bool(failed):
            return None
        solution = torch.cholesky_solve(right.to(shifted.dtype)[:, None], factor)[:, 0].to(matrix.dtype)
        spectral = SolvedSpectrum(matrix, right, damping, on_parameters, curvature.capture.columns)
        return cls(curvature, spectral, solution, decompose)

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
            CurvatureError: The step has a NaN or an infinity in it.
        """
        if self.spectral.on_parameters:
            moves = self.curvature.vectors(-self.solution[None])
        else:
            moves = self.curvature.combine(-self.solution[:, None])
        return checked_step([move[0] for move in moves])

    def step_norm(self) -> Tensor:
        """Return the Euclidean norm of the step, a scalar in param."""
        if self.spectral.on_parameters:
            return self.solution.square().sum().sqrt()
        return (self.solution @ self._image).clamp(min=0).sqrt()

    def predicted_decrease(self, lr: float = 1.0) -> Tensor:
        """Return by how much the quadratic model of the loss decreases along `lr` times the step, a scalar in loss."""
        right, solution = self.spectral.right, self.solution
        if self.spectral.on_parameters:
            return lr * (right @ solution) - 0.5 * lr**2 * (solution @ self._image)
        return lr * (right @ self._image) - 0.5 * lr**2 * self._image.square().sum()

    @cached_property
    def _image(self) -> Tensor:
        return self.spectral.matrix @ self.solution

"""The spectrum of a Gram matrix, or of the GGN itself, and where it ends numerically."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ddn_core.engine.krylov import is_worthwhile, leading_eigenpairs
from ddn_core.errors import CurvatureError, NonFiniteError

LinAlgError: type[RuntimeError] = torch.linalg.LinAlgError  # type: ignore[attr-defined]  # torch does not export it


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Eigenpairs of a symmetric positive semi-definite matrix.

    Attributes:
        all_evals: Every eigenvalue that was computed, ascending; numerically zero ones are exactly what the solver
            gave, so they can be slightly negative.
        evals: The numerically nonzero ones, ascending, `[K]`.
        evecs: Their eigenvectors, `[R, K]`.
        fallbacks: What had to be tried beyond the first solver, in order: `"eigh"` for all pairs where the leading ones
            did not converge, `"float64"`, `"jitter"`.
    """

    all_evals: Tensor
    evals: Tensor
    evecs: Tensor
    fallbacks: tuple[str, ...] = ()

    def to(self, dtype: torch.dtype) -> Spectrum:
        """Return the spectrum in another dtype."""
        return replace(self, all_evals=self.all_evals.to(dtype), evals=self.evals.to(dtype), evecs=self.evecs.to(dtype))

    def padded(self, columns: int) -> Spectrum:
        """Return the spectrum with zeros in front, for the eigenvalues of VᵀV that V Vᵀ does not have.

        Args:
            columns: Number of columns of V. Where only leading eigenvalues were computed, nothing is added.
        """
        if len(self.all_evals) != len(self.evecs):
            return self
        zeros = self.all_evals.new_zeros(columns - len(self.all_evals))
        return replace(self, all_evals=torch.cat([zeros, self.all_evals]))


def null_space_bound(evals: Tensor, columns: int) -> Tensor:
    """Return the value up to which an eigenvalue is numerically zero.

    `λ_max · R · ε`: rounding errors of a symmetric eigensolver are of the order of the largest eigenvalue times the
    machine precision ε of the dtype, and grow with the number of columns R (Golub and Van Loan, section 8.1).
    """
    return evals.max() * columns * torch.finfo(evals.dtype).eps


def factors_bound(evals: Tensor, precision: float) -> Tensor:
    """Return the value up to which an eigenvalue of V Vᵀ is rounding of V, where the product itself is more precise.

    Entries of V have relative errors of some ε, the precision of its dtype, so singular values have errors of some
    `ε ‖V‖`; eigenvalues are their squares, and resolved down to `(16 ε)² trace`. The factor is for layers of rounding.
    """
    return evals.clamp(min=0).sum() * (16 * precision) ** 2


def eigendecompose(matrix: Tensor, largest: int | None = None, precision: float = 0.0) -> Spectrum:
    """Return the numerically nonzero part of a spectrum.

    Where few pairs of a large matrix are needed they alone are computed. Where the solver fails, it is tried in
    float64, and then with a multiple of the identity added that is at rounding level.

    Args:
        matrix: Symmetric positive semi-definite matrix, `[R, R]`.
        largest: Number of leading eigenpairs that are needed; all by default.
        precision: Precision of the factors, where the matrix was made of them in a more precise dtype.

    Raises:
        CurvatureError: The matrix has a NaN or an infinity in it, or no solver converges.
    """
    check_finite(matrix)
    columns = len(matrix)
    fallbacks: list[str] = []
    found = None
    if largest is not None and is_worthwhile(columns, largest):
        with suppress(LinAlgError):  # of the small problems in it
            found = leading_eigenpairs(matrix, largest)
        fallbacks += [] if found is not None else ["eigh"]
    evals, evecs = found if found is not None else _eigh(matrix, fallbacks)
    bound = torch.maximum(null_space_bound(evals, columns), factors_bound(evals, precision)) if columns else 0
    null = int((evals <= bound).sum())
    if largest is not None:
        null = max(null, len(evals) - largest)
    return Spectrum(evals, evals[null:], evecs[:, null:], tuple(fallbacks))


def eigenvalues(matrix: Tensor) -> tuple[Tensor, tuple[str, ...]]:
    """Return all eigenvalues, ascending, and the fallbacks that were needed.

    Raises:
        CurvatureError: The matrix has a NaN or an infinity in it, or no solver converges.
    """
    check_finite(matrix)
    try:
        return torch.linalg.eigvalsh(matrix), ()
    except LinAlgError:
        fallbacks = ["eigh"]
        return _eigh(matrix, fallbacks)[0], tuple(fallbacks)


def check_finite(matrix: Tensor) -> None:
    """Raise if a Gram matrix has entries that are not finite.

    Raises:
        NonFiniteError: It has.
    """
    if not bool(matrix.sum().isfinite()) and not bool(torch.isfinite(matrix).all()):
        raise NonFiniteError(
            "the Gram matrix has NaN or infinite entries: layer inputs or the backpropagated loss Hessian overflow. "
            "Check the scale of the data and the parameters, or use float64."
        )


def fix_signs(evecs: Tensor) -> Tensor:
    """Return eigenvectors, each with the sign that makes its entry of largest magnitude (the first such) positive."""
    if not evecs.numel():
        return evecs
    largest = evecs.abs().argmax(0, keepdim=True)
    return evecs * torch.where(evecs.gather(0, largest) < 0, -1.0, 1.0).to(evecs.dtype)


def _eigh(matrix: Tensor, fallbacks: list[str]) -> tuple[Tensor, Tensor]:
    """Return all eigenpairs; notes what had to be tried beyond the first solver."""
    try:
        evals, evecs = torch.linalg.eigh(matrix)
        if bool(torch.isfinite(evals).all()):
            return evals, evecs
    except LinAlgError:
        pass  # float32 can fail on spectra over many orders of magnitude that float64 resolves
    double = matrix.double()
    jitter = double.diagonal().abs().max() * torch.finfo(matrix.dtype).eps
    for name, shift in (("float64", 0.0), ("jitter", float(jitter))):
        fallbacks.append(name)
        try:
            evals, evecs = torch.linalg.eigh(double + shift * torch.eye(len(double), dtype=double.dtype).to(double))
        except LinAlgError as error:
            failure = error
        else:
            return (evals - shift).to(matrix.dtype), evecs.to(matrix.dtype)
    raise CurvatureError(
        f"the eigensolver failed on a Gram matrix of {len(matrix)} columns, in float64 and with "
        f"{float(jitter):.1e} added to its diagonal, too: {failure} Check the scale of the data and the parameters."
    ) from failure

"""The spectrum of a Gram matrix, and where it ends numerically."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ddn_core.errors import CurvatureError

LinAlgError: type[RuntimeError] = torch.linalg.LinAlgError  # type: ignore[attr-defined]  # torch does not export it


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Eigenpairs of a Gram matrix.

    Attributes:
        all_evals: Every eigenvalue that was computed, ascending; numerically zero ones are exactly what the solver
            gave, so they can be slightly negative.
        evals: The numerically nonzero ones, ascending, `[K]`.
        evecs: Their Gram eigenvectors, `[R, K]`.
    """

    all_evals: Tensor
    evals: Tensor
    evecs: Tensor


def null_space_bound(evals: Tensor) -> Tensor:
    """Return the value up to which an eigenvalue of a Gram matrix is numerically zero.

    `λ_max · R · ε`: rounding errors of a symmetric eigensolver are of the order of the largest eigenvalue times the
    machine precision ε of the dtype, and grow with the number of columns R (Golub and Van Loan, section 8.1).
    """
    return evals.max() * evals.numel() * torch.finfo(evals.dtype).eps


def eigendecompose(gram: Tensor, largest: int | None = None) -> Spectrum:
    """Return the numerically nonzero part of the spectrum of a Gram matrix.

    Args:
        gram: Symmetric positive semi-definite matrix, `[R, R]`.
        largest: Number of leading eigenpairs that are needed; all by default.

    Raises:
        CurvatureError: The matrix has a NaN or an infinity in it, or the solver does not converge.
    """
    if not bool(torch.isfinite(gram).all()):
        raise CurvatureError(
            "the Gram matrix has NaN or infinite entries: layer inputs or the backpropagated loss Hessian overflow. "
            "Check the scale of the data and the parameters, or use float64."
        )
    evals, evecs = _eigh(gram)
    null = int((evals <= null_space_bound(evals)).sum()) if evals.numel() else 0
    if largest is not None:
        null = max(null, evals.numel() - largest)
    return Spectrum(all_evals=evals, evals=evals[null:], evecs=evecs[:, null:])


def _eigh(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Return all eigenpairs, from a second try in float64 where the solver fails in the dtype of the matrix."""
    try:
        evals, evecs = torch.linalg.eigh(gram)
        return evals, evecs
    except LinAlgError:
        pass  # float32 can fail on spectra over many orders of magnitude that float64 resolves
    try:
        evals, evecs = torch.linalg.eigh(gram.double())
    except LinAlgError as error:
        raise CurvatureError(f"the eigensolver failed on a Gram matrix of {gram.shape[0]} columns: {error}") from error
    return evals.to(gram.dtype), evecs.to(gram.dtype)

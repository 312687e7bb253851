"""The spectrum of a Gram matrix or of a GGN, without its numerically zero part."""

from __future__ import annotations

import math
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
        all_evals: All computed eigenvalues, ascending. Numerically zero ones are not set to zero, so they can be
            slightly negative.
        evals: The numerically nonzero eigenvalues, ascending, `[K]`.
        evecs: Eigenvectors of `evals`, `[R, K]`.
        largest: Largest magnitude of the eigenvalues; 0 if there are none.
        fallbacks: Solvers that were used after the first one failed, in order: `"eigh"` if the leading pairs did not
            converge, `"float64"`, `"jitter"`.
    """

    all_evals: Tensor
    evals: Tensor
    evecs: Tensor
    largest: float
    fallbacks: tuple[str, ...] = ()

    def to(self, dtype: torch.dtype) -> Spectrum:
        """Return the spectrum in another dtype."""
        return replace(self, all_evals=self.all_evals.to(dtype), evals=self.evals.to(dtype), evecs=self.evecs.to(dtype))

    def padded(self, columns: int) -> Spectrum:
        """Return the spectrum with zeros in front: the eigenvalues that VᵀV has in addition to those of V Vᵀ.

        Args:
            columns: Number of columns of V. If only leading eigenvalues were computed, no zeros are added.
        """
        if len(self.all_evals) != len(self.evecs):
            return self
        zeros = self.all_evals.new_zeros(columns - len(self.all_evals))
        return replace(self, all_evals=torch.cat([zeros, self.all_evals]))


def null_space_bound(evals: Tensor, columns: int) -> Tensor:
    """Return the largest value at which an eigenvalue counts as numerically zero, `λ_max · R · ε`.

    Rounding errors of a symmetric eigensolver are of the order of the largest eigenvalue times the
    machine precision ε of the dtype, and grow with the number of columns R (Golub and Van Loan, section 8.1).
    """
    return evals.max() * (columns * torch.finfo(evals.dtype).eps)  # without the brackets, it may overflow


def factors_bound(evals: Tensor, precision: float) -> Tensor:
    """Return the value up to which an eigenvalue of V Vᵀ is a rounding error of V, for a product of higher precision.

    Entries of V have relative errors of about ε, the precision of its dtype, so its singular values have errors of
    about `ε ‖V‖`. Eigenvalues are the squares of singular values and are resolved down to `(16 ε)² trace`. The factor
    16 allows for the rounding errors of several layers.
    """
    return (evals.clamp(min=0) * (16 * precision) ** 2).sum()


def eigendecompose(matrix: Tensor, largest: int | None = None, precision: float = 0.0) -> Spectrum:
    """Return the spectrum of a matrix, with eigenvectors for its numerically nonzero part.

    If few pairs of a large matrix are needed, only these are computed. If the solver fails, the matrix is decomposed in
    float64, and then with a multiple of the identity added that is at rounding level.

    Args:
        matrix: Symmetric positive semi-definite matrix, `[R, R]`.
        largest: Number of leading eigenpairs that are needed; all by default.
        precision: Machine precision of the factors, if the matrix was computed from them in a more precise dtype.

    Raises:
        NonFiniteError: The matrix has NaN or infinite entries.
        CurvatureError: No solver converges.
    """
    columns = len(matrix)
    fallbacks: list[str] = []
    found = None
    if largest is not None and is_worthwhile(columns, largest):
        check_finite(matrix)
        with suppress(LinAlgError):  # a small decomposition inside the method can fail
            found = leading_eigenpairs(matrix, largest)
        fallbacks += [] if found is not None else ["eigh"]
    found = _eigh_as_given(matrix) if found is None else found
    size = math.nan
    if found is not None:
        size, null = _size_and_null_count(found[0], columns, precision)
    if found is None or not math.isfinite(size):
        found = _eigh(matrix, fallbacks)
        size, null = _size_and_null_count(found[0], columns, precision)
    evals, evecs = found
    if largest is not None:
        null = max(null, len(evals) - largest)
    return Spectrum(evals, evals[null:], evecs[:, null:], size, tuple(fallbacks))


def eigenvalues(matrix: Tensor) -> tuple[Tensor, tuple[str, ...]]:
    """Return all eigenvalues, ascending, and the fallbacks that were used.

    Raises:
        NonFiniteError: The matrix has NaN or infinite entries.
        CurvatureError: No solver converges.
    """
    check_finite(matrix)
    try:
        return torch.linalg.eigvalsh(matrix), ()
    except LinAlgError:
        fallbacks = ["eigh"]
        return _eigh(matrix, fallbacks)[0], tuple(fallbacks)


def check_finite(matrix: Tensor) -> None:
    """Check that all entries of a Gram matrix are finite.

    Raises:
        NonFiniteError: An entry is NaN or infinite.
    """
    if not bool(matrix.sum().isfinite()) and not bool(torch.isfinite(matrix).all()):
        raise curvature_overflows()


def curvature_overflows() -> NonFiniteError:
    """Return the error for a matrix with NaN or infinite entries."""
    return NonFiniteError(
        "the Gram matrix has NaN or infinite entries: layer inputs or the backpropagated loss Hessian overflow. "
        "Check the scale of the loss, the data and the parameters, or use float64."
    )


def curvature_underflows(size: float, dtype: torch.dtype) -> CurvatureError:
    """Return the error for a damped curvature that is too small for a dtype.

    Args:
        size: Curvature plus damping.
        dtype: The dtype.
    """
    return CurvatureError(
        f"curvature and damping of the loss are only {size:.1e} together, and {dtype} loses digits below "
        f"{torch.finfo(dtype).tiny:.1e}. Multiply the loss and the damping by a large constant, or use float64."
    )


def fix_signs(evecs: Tensor) -> Tensor:
    """Return eigenvectors with signs that make the first entry of largest magnitude of each one positive."""
    if not evecs.numel():
        return evecs
    largest = evecs.abs().argmax(0, keepdim=True)
    return evecs * torch.where(evecs.gather(0, largest) < 0, -1.0, 1.0).to(evecs.dtype)


def _size_and_null_count(evals: Tensor, columns: int, precision: float) -> tuple[float, int]:
    """Return the largest magnitude of eigenvalues, NaN if one is, and how many are numerically zero.

    This waits for the device once.
    """
    if not columns:
        return 0.0, 0
    bound = torch.maximum(null_space_bound(evals, columns), factors_bound(evals, precision))
    size, null = torch.stack([evals.abs().amax(), (evals <= bound).sum()]).tolist()
    return size, int(null)


def _eigh_as_given(matrix: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return all eigenpairs in the dtype of the matrix, `None` if the solver fails.

    Float32 can fail on a spectrum over many orders of magnitude, which float64 resolves.
    """
    try:
        evals, evecs = torch.linalg.eigh(matrix)
    except LinAlgError:
        return None
    return evals, evecs


def _eigh(matrix: Tensor, fallbacks: list[str]) -> tuple[Tensor, Tensor]:
    """Return all eigenpairs from float64, after another solver failed, and append what was used to `fallbacks`."""
    check_finite(matrix)
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
        f"the eigensolver failed on a Gram matrix of {len(matrix)} columns, also in float64 and with "
        f"{float(jitter):.1e} added to its diagonal: {failure} Check the scale of the data and the parameters."
    ) from failure

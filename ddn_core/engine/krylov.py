"""The leading eigenpairs of a symmetric matrix, by a block Krylov method: few products, no full decomposition.

The block Lanczos process with full reorthogonalization (Golub and Van Loan, section 10.3), from a fixed random block,
and restarted from its Ritz vectors until the residuals are at rounding level.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

BLOCKS = 16
"""Number of blocks that a Krylov basis grows to before it is restarted."""
CHECKS = (5, 8)
"""Numbers of blocks at which convergence is looked at, which takes a small decomposition; from then on it is looked at
where the decrease of the residuals so far lets it be expected."""
RESTARTS = 6
"""Number of restarts after which the method gives up."""
LOST = 0.1
"""Share of an image at which what is left of it is no longer orthogonal to the basis to rounding."""
ROUNDING = 16.0
"""Size of a residual that counts as rounding error, in machine precisions times the largest eigenvalue."""


def is_worthwhile(columns: int, count: int) -> bool:
    """Return whether the leading pairs cost less this way than by a full decomposition."""
    return columns >= 512 and 12 * count <= columns


def leading_eigenpairs(matrix: Tensor, count: int) -> tuple[Tensor, Tensor] | None:
    """Return the largest eigenvalues, ascending, and their eigenvectors, or `None` if they do not converge.

    Args:
        matrix: Symmetric positive semi-definite matrix, `[R, R]`.
        count: Number of eigenpairs; a small part of R.

    Returns:
        Eigenvalues `[count]` and eigenvectors `[R, count]`.
    """
    width = count + max(2, count // 5)
    generator = Generator("cpu").manual_seed(0)
    start = torch.randn(len(matrix), width, generator=generator, dtype=torch.float32).to(matrix)
    for _ in range(1 + RESTARTS):
        evals, vectors, converged = _ritz_pairs(matrix, torch.linalg.qr(start)[0].T, count)
        if converged:
            return evals[-count:], vectors[-count:].T.contiguous()
        start = vectors[-width:].T
    return None


def _ritz_pairs(matrix: Tensor, block: Tensor, count: int) -> tuple[Tensor, Tensor, bool]:
    """Return the Ritz pairs of a Krylov space that is grown until the leading ones converge, or is large enough.

    Vectors are rows. With the basis B, `B G = T B + E W` for a projection T and what is left of the last block's image,
    W, so that the residual of a Ritz pair is its last entries times W.
    """
    width = len(block)
    blocks = max(1, min(BLOCKS, len(matrix) // width - 1))
    basis = matrix.new_empty(blocks * width, len(matrix))
    projection = matrix.new_zeros(blocks * width, blocks * width)
    tolerance = max(ROUNDING * torch.finfo(matrix.dtype).eps, 1e-12)
    trace = matrix.diagonal().sum().clamp(min=torch.finfo(matrix.dtype).tiny)  # squares of rounding errors can vanish
    next_check = CHECKS[0]
    for number in range(1, blocks + 1):
        last, size = slice((number - 1) * width, number * width), number * width
        basis[last] = block
        known, image = basis[:size], (block @ matrix).div_(trace)
        for _ in range(2):  # once leaves what is lost to cancellation
            overlaps = known @ image.T
            projection[:size, last] += overlaps
            image.addmm_(overlaps.T, known, alpha=-1)
        block, rest = torch.linalg.qr(image.T)
        block = block.T
        smallest, largest = rest.diagonal().abs().min(), torch.maximum(overlaps.abs().max(), rest.abs().max())
        if bool(smallest <= LOST * largest):  # some rows are rounding errors: the space is nearly invariant
            for _ in range(2):
                block = torch.linalg.qr((block - block @ known.T @ known).T)[0].T
        if number in (next_check, blocks):
            evals, rotation = torch.linalg.eigh(projection[:size, :size], UPLO="U")
            residuals = (rest @ rotation[last, -count:]).square().sum(0).sqrt()
            converged = bool(residuals.max() <= tolerance * evals[-1])
            if converged:
                break
            next_check = next((check for check in CHECKS if check > number), 0)
            if not next_check:
                residual = float(residuals.max() / evals[-1])
                next_check = number + _blocks_to_go(number, residual, tolerance)
    return evals * trace, rotation.T @ known, converged


def _blocks_to_go(number: int, residual: float, tolerance: float) -> int:
    """Return after how many more blocks a residual meets a tolerance, if it decreases as it did from 1 at the first."""
    decrease = -math.log(residual) / (number - 1) if 0 < residual < 1 else 0.0
    return max(1, math.ceil(math.log(residual / tolerance) / decrease)) if decrease else 1

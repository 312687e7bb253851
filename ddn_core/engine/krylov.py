"""The leading eigenpairs of a symmetric matrix, by a block Krylov method: few products, no full decomposition.

The block Lanczos process with full reorthogonalization (Golub and Van Loan, section 10.3), from a fixed random block,
and restarted from its Ritz vectors until the residuals are at rounding level.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

BLOCKS = 12
"""Number of blocks that a Krylov basis grows to before it is restarted."""
FIRST_CHECK = 3
"""Number of blocks from which on, at every second one, convergence is looked at: that takes a small decomposition."""
RESTARTS = 6
"""Number of restarts after which the method gives up."""
ROUNDING = 16.0
"""Size of a residual that counts as rounding error, in machine precisions times the largest eigenvalue."""


def pays(columns: int, count: int) -> bool:
    """Return whether the leading pairs cost less this way than by a full decomposition."""
    return columns >= 320 and 12 * count <= columns


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
    start = torch.randn(len(matrix), width, generator=generator, dtype=torch.float64).to(matrix)
    for _ in range(1 + RESTARTS):
        evals, vectors, converged = _ritz_pairs(matrix, torch.linalg.qr(start)[0], count)
        if converged:
            return evals[-count:], vectors[:, -count:]
        start = vectors[:, -width:]
    return None


def _ritz_pairs(matrix: Tensor, block: Tensor, count: int) -> tuple[Tensor, Tensor, bool]:
    """Return the Ritz pairs of a Krylov space that is grown until the leading ones converge, or is large enough."""
    width = block.shape[1]
    blocks = max(1, min(BLOCKS, len(matrix) // width - 1))
    basis, images = (matrix.new_empty(len(matrix), blocks * width) for _ in range(2))
    tolerance = ROUNDING * torch.finfo(matrix.dtype).eps
    for number in range(1, blocks + 1):
        size = number * width
        basis[:, size - width : size] = block
        torch.mm(matrix, block, out=images[:, size - width : size])
        known, known_images = basis[:, :size], images[:, :size]
        if number == blocks or (number >= FIRST_CHECK and (number - FIRST_CHECK) % 2 == 0):
            small = known.T @ known_images
            evals, rotation = torch.linalg.eigh(0.5 * (small + small.T))
            leading = rotation[:, -count:]
            residuals = known_images @ leading - (known @ leading) * evals[-count:]
            converged = bool(residuals.square().sum(0).sqrt().max() <= tolerance * evals[-1])
            if converged or number == blocks:
                break
        block = images[:, size - width : size]
        for _ in range(2):  # once leaves what is lost to cancellation
            block = torch.linalg.qr(block - known @ (known.T @ block))[0]
    return evals, known @ rotation, converged

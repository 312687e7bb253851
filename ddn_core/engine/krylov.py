"""The leading eigenpairs of a symmetric matrix by a block Krylov method: few products, and no full decomposition.

The method is the block Lanczos process with full reorthogonalization (Golub and Van Loan, section 10.3). It starts from
a fixed random block, and restarts from its Ritz vectors until the residuals are at rounding level.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

BLOCKS = 16
"""Number of blocks of a Krylov basis at which the method restarts."""
CHECKS = (5, 8)
"""Numbers of blocks at which convergence is checked first; each check costs a small decomposition. Later checks happen
when the decrease of the residuals so far predicts convergence."""
RESTARTS = 6
"""Number of restarts after which the method stops without convergence."""
LOST = 0.1
"""Smallest relative norm that a new block may keep after its projection on the basis is removed; below it, rounding
errors dominate the block and it is orthogonalized again."""
ROUNDING = 16.0
"""Largest residual that counts as rounding error, over machine precision times the largest eigenvalue."""


def is_worthwhile(columns: int, count: int) -> bool:
    """Return whether the Krylov method costs less than a full decomposition for `count` leading pairs."""
    return columns >= 512 and 12 * count <= columns


def leading_eigenpairs(matrix: Tensor, count: int) -> tuple[Tensor, Tensor] | None:
    """Return the largest eigenvalues, ascending, and their eigenvectors; `None` if the method does not converge.

    Args:
        matrix: Symmetric positive semi-definite matrix, `[R, R]`.
        count: Number of eigenpairs, much smaller than R.

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
    """Grow a Krylov space until the leading Ritz pairs converge or the space has `BLOCKS` blocks.

    Vectors are rows. For the basis B and the matrix G, `B G = T B + E W`, with the projection T of G, and the part W of
    the last block's image that is orthogonal to the basis. So the residual of a Ritz pair is its last entries times W.

    Returns:
        Ritz values, ascending, the Ritz vectors as rows, and whether the `count` leading pairs have converged.
    """
    width = len(block)
    blocks = max(1, min(BLOCKS, len(matrix) // width - 1))
    basis = matrix.new_empty(blocks * width, len(matrix))
    projection = matrix.new_zeros(blocks * width, blocks * width)
    tolerance = max(ROUNDING * torch.finfo(matrix.dtype).eps, 1e-12)
    scale = matrix.diagonal().amax().clamp(min=torch.finfo(matrix.dtype).tiny)  # entries can underflow
    next_check = CHECKS[0]
    for number in range(1, blocks + 1):
        last, size = slice((number - 1) * width, number * width), number * width
        basis[last] = block
        known, image = basis[:size], (block @ matrix).div_(scale)
        for _ in range(2):  # a single projection loses digits to cancellation
            overlaps = known @ image.T
            projection[:size, last] += overlaps
            image.addmm_(overlaps.T, known, alpha=-1)
        block, rest = torch.linalg.qr(image.T)
        block = block.T
        smallest, largest = rest.diagonal().abs().min(), torch.maximum(overlaps.abs().max(), rest.abs().max())
        if bool(smallest <= LOST * largest):  # the space is nearly invariant, so that some rows are rounding errors
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
    return evals * scale, rotation.T @ known, converged


def _blocks_to_go(number: int, residual: float, tolerance: float) -> int:
    """Return the number of further blocks until the residual meets the tolerance, at its mean rate of decrease.

    The residual is taken to be 1 at the first block.
    """
    decrease = -math.log(residual) / (number - 1) if 0 < residual < 1 else 0.0
    return max(1, math.ceil(math.log(residual / tolerance) / decrease)) if decrease else 1

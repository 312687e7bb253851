"""Orthonormalization of eigenvectors that rounding has made slightly oblique.

In `e_k = V u_k / √λ_k`, the rounding errors ε of the Gram matrix and of its eigenvectors are amplified: the overlap of
two eigenvectors, `u_jᵀ VᵀV u_k / √(λ_j λ_k)`, is of the size of `ε λ_max / √(λ_j λ_k)` rather than ε.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

MIN_REMAINDER = 0.5
"""Smallest norm of a vector, after its projection on the earlier ones is removed, for which the Cholesky factor of the
overlaps is accurate; below it, a QR decomposition is used."""


def orthonormalized(vectors: Sequence[Tensor], evals: Tensor) -> list[Tensor]:
    """Return orthonormal vectors with the same span, when flattened and concatenated over the parameters.

    The vectors are orthogonalized in the order of descending eigenvalues, the most accurate first. So the span of the
    leading eigenvectors does not change, for any number of them.

    Args:
        vectors: Approximate eigenvectors, `[K, *shape]` for each parameter.
        evals: Eigenvalues of the vectors, `[K]`.
    """
    order = evals.argsort(descending=True)
    place = order.argsort()
    flat = [part.flatten(1) for part in vectors]
    overlaps = flat[0] @ flat[0].T
    for part in flat[1:]:
        overlaps += part @ part.T
    factor, failed = torch.linalg.cholesky_ex(overlaps[order][:, order])
    if bool(failed) or bool((factor.diagonal() < MIN_REMAINDER).any()):
        columns, upper = torch.linalg.qr(torch.cat(flat, dim=1)[order].T)
        straight = (columns * torch.where(upper.diagonal() < 0, -1.0, 1.0).to(columns)).T[place]
        parts = list(torch.split(straight, [part.shape[1] for part in flat], dim=1))
    else:
        identity = torch.eye(len(evals), dtype=overlaps.dtype, device=overlaps.device)
        inverse = torch.linalg.solve_triangular(factor, identity, upper=False)[place][:, place]
        parts = [inverse @ part for part in flat]
    return [part.reshape(old.shape) for part, old in zip(parts, vectors, strict=True)]

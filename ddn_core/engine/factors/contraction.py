"""The contractions of root and features to columns and to a Gram matrix, and their numbers of operations."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ddn_core.engine.factors.factor_input import FactorInput

Contraction = Literal["outer", "pairs", "formed"]


def form(root: Tensor, features: Tensor) -> Tensor:
    """Return the columns `Σ_l S[n, a, g, o, l] A[n, g, l, f]`, `[B, A, g, o, f]`, without the feature of the bias."""
    samples, per_sample, groups, outputs, positions = root.shape
    if positions == 1:
        return root * features[:, None]
    if outputs == features.shape[-1] == 1:
        return (root * features[:, None].transpose(-1, -2)).sum(-1, keepdim=True)
    stacked = root.transpose(1, 2).reshape(samples, groups, per_sample * outputs, positions)
    columns = stacked @ features
    return columns.reshape(samples, groups, per_sample, outputs, features.shape[-1]).transpose(1, 2)


def form_whole(root: Tensor, factor_input: FactorInput) -> Tensor:
    """Return the columns, `[B, A, g, o, f + 1]` with the feature of the bias, `[B, A, g, o, f]` without a bias."""
    parts = [form(root, factor_input.features())] if factor_input.has_weight else []
    if factor_input.has_bias:
        parts.append(root.sum(-1, keepdim=True))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


def cheapest_contraction(
    samples: int, per_sample: int, groups: int, outputs: int, features: int, positions: int
) -> tuple[Contraction, float]:
    """Return the contraction with the fewest operations for a Gram matrix, and their number.

    A multiplication and an addition count as one operation. An elementwise operation on a block counts as eight,
    because memory traffic bounds it rather than arithmetic.
    """
    columns = samples * per_sample
    if positions == 1:
        pairs = 0.5 * groups * (columns**2 * (outputs + 8) + samples**2 * features)
    else:
        moved = per_sample * outputs * positions * (positions + per_sample)
        pairs = 0.5 * groups * samples**2 * (positions**2 * features + moved)
    formed = groups * outputs * features * (columns * positions + 0.5 * columns**2)
    if formed <= pairs:
        return "formed", formed
    return ("outer" if positions == 1 else "pairs"), pairs


def add_outer_products(
    block: Tensor, root: Tensor, features: Tensor, roots: Tensor, others: Tensor, bias: float
) -> None:
    """Add `(S Sᵀ) ∘ (A Aᵀ + bias)` to a block `[b · a, B · A]` of a Gram matrix, for operations with one position.

    Args:
        block: Block of a Gram matrix.
        root: Root of the block's rows, `[b, a, o, 1]`.
        features: Features of the block's rows, `[b, 1, f]`.
        roots: Root of the block's columns, `[B, A, o, 1]`.
        others: Features of the block's columns, `[B, 1, f]`.
        bias: 1 if the bias is among the parameters, else 0.
    """
    (rows, per_row), (columns, per_column) = root.shape[:2], roots.shape[:2]
    products = root.flatten(0, 1)[..., 0] @ roots.flatten(0, 1)[..., 0].T
    alike = (features[:, 0] @ others[:, 0].T + bias).repeat_interleave(per_column, dim=1)
    shape = (rows, per_row, columns * per_column)
    block.view(shape).addcmul_(products.view(shape), alike[:, None])


def add_pair_products(
    block: Tensor, root: Tensor, features: Tensor, roots: Tensor, others: Tensor, bias: float, elements: int
) -> None:
    """Add `Σ_l S_l · (Σ_l' K_ll' S'_l')` with `K = A A'ᵀ + bias` to a block `[a, B · A]`, the rows of one sample.

    Args:
        block: Block of a Gram matrix.
        root: Root of the block's rows, `[1, a, o, l]`.
        features: Features of the block's rows, `[1, l, f]`.
        roots: Root of the block's columns, `[B, A, o, L]`.
        others: Features of the block's columns, `[B, L, f]`.
        bias: 1 if the bias is among the parameters, else 0.
        elements: Largest number of elements of the roots that are multiplied with K at a time.
    """
    _, per_row, outputs, positions = root.shape
    columns, per_column = roots.shape[:2]
    mine = root.reshape(per_row, outputs * positions)
    width = max(1, elements // (per_column * outputs * positions))
    for start in range(0, columns, width):
        some = slice(start, min(start + width, columns))
        alike = others[some] @ features[0].T + bias  # [B, L, l]
        moved = roots[some].reshape(len(alike), per_column * outputs, -1) @ alike  # [B, A · o, l]
        places = slice(some.start * per_column, some.stop * per_column)
        block[:, places] += mine @ moved.reshape(len(alike) * per_column, outputs * positions).T

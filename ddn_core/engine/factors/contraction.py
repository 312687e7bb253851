"""The ways from root and features to columns and to a Gram matrix, and what they cost."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ddn_core.engine.factors.layer_input import LayerInput

Contraction = Literal["outer", "pairs", "formed"]


def form(root: Tensor, features: Tensor) -> Tensor:
    """Return `Σ_l S[n, a, g, o, l] A[n, g, l, f]`, `[B, A, g, o, f]`."""
    samples, per_sample, groups, outputs, positions = root.shape
    if positions == 1:
        return root * features[:, None]
    stacked = root.transpose(1, 2).reshape(samples, groups, per_sample * outputs, positions)
    columns = stacked @ features
    return columns.reshape(samples, groups, per_sample, outputs, features.shape[-1]).transpose(1, 2)


def form_whole(root: Tensor, layer_input: LayerInput) -> Tensor:
    """Return the columns with the feature of the bias, `[B, A, g, o, f + 1]`, or without if there is none."""
    parts = [form(root, layer_input.features())] if layer_input.weight else []
    if layer_input.bias:
        parts.append(root.sum(-1, keepdim=True))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


def cheapest_contraction(
    samples: int, per_sample: int, groups: int, outputs: int, features: int, positions: int
) -> tuple[Contraction, float]:
    """Return the contraction that takes the fewest operations for a Gram matrix, and their number.

    Multiplications and additions count as one. An elementwise operation on a block counts as eight: it is bound by
    memory, not by arithmetic.
    """
    columns = samples * per_sample
    pairs = 0.5 * groups * positions**2 * (columns**2 * (outputs + 8) + samples**2 * features)
    formed = groups * outputs * features * (columns * positions + 0.5 * columns**2)
    if formed <= pairs:
        return "formed", formed
    return ("outer" if positions == 1 else "pairs"), pairs

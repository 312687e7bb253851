"""Backpropagation through dropout, whose mask BackPACK takes from the zeros of the output alone.

A unit is dropped where a nonzero input has become zero. Where the input itself is zero, the gradients tell: a nonzero
gradient behind the layer that is zero before it. Where both are zero the unit is taken as kept, which no derivative of
the loss at this point contradicts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class DropoutDerivatives:
    """The transposed Jacobian of dropout: the mask that the forward pass drew, times 1 / (1 - p)."""

    def jac_t_mat_prod(
        self,
        module: Any,
        g_inp: tuple[Tensor, ...],
        g_out: tuple[Tensor, ...],
        mat: Tensor,
        subsampling: list[int] | None = None,
    ) -> Tensor:
        """Return the vectors `[V, N, *output]` times the Jacobian, `[V, N, *input]`."""
        if not module.training:
            return mat
        kept_by_gradient = (g_inp[0] != 0) | (g_out[0] == 0)
        kept: Tensor = torch.where(module.input0 != 0, module.output != 0, kept_by_gradient)
        scale = kept.to(mat.dtype) / (1 - module.p) if module.p < 1 else torch.zeros_like(kept, dtype=mat.dtype)
        return mat * (scale if subsampling is None else scale[subsampling])

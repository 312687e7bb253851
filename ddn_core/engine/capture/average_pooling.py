"""Backpropagation through average pooling, which BackPACK has for float32 only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class AveragePoolingDerivatives:
    """The transposed Jacobian of a layer that is linear, treats each sample alike, and has no parameters."""

    def jac_t_mat_prod(
        self, module: Any, g_inp: Any, g_out: Any, mat: Tensor, subsampling: list[int] | None = None
    ) -> Tensor:
        """Return the vectors `[V, N, *output]` times the Jacobian, `[V, N, *input]`, by autograd at zero."""
        columns = mat.flatten(0, 1)
        with torch.enable_grad():
            point = columns.new_zeros(columns.shape[0], *module.input0.shape[1:]).requires_grad_()
            propagated: Tensor = torch.autograd.grad(type(module).forward(module, point), point, columns)[0]
        return propagated.reshape(*mat.shape[:2], *point.shape[1:])

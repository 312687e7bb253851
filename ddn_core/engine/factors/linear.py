"""Columns for the weight of a linear layer: backpropagated root and layer input, never `[C, N, out, in]`.

With root `S[c, n, l, o]` and input `A[n, l, i]` (l runs over the L positions of a sequence axis; L = 1 without
one), column `(c, n)` is the matrix `Σ_l S[c, n, l, :] A[n, l, :]ᵀ`. For L = 1 the inner products factorize,

    ⟨V[c, n], V[c', n']⟩ = (S[c, n] · S[c', n']) (A[n] · A[n']),

so the Gram block is the elementwise product of two small Gram matrices (ViViT, Dangel et al. 2022, section 3). For
L > 1 the columns are formed for a slice of output features at a time, and the products are accumulated.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ddn_core.engine.factors.columns import Columns

SLICE_ELEMENTS = 2**24
"""Number of elements up to which columns are formed at a time."""


class LinearWeightColumns(Columns):
    """Columns for a weight `[out, in]`, from the backpropagated vectors and the layer input."""

    def __init__(self, root: Tensor, layer_input: Tensor) -> None:
        """Keep both tensors; nothing is computed.

        Args:
            root: Vectors backpropagated to the layer output, `[A, B, L, out]`.
            layer_input: Input of the layer for the same samples, `[B, L, in]`.
        """
        self._root = root
        self._input = layer_input
        self.shape = torch.Size((root.shape[-1], layer_input.shape[-1]))
        self.count = root.shape[0] * root.shape[1]

    def inner(self, other: Columns) -> Tensor:
        """Return the inner products, `[count, other.count]`."""
        if not isinstance(other, LinearWeightColumns):
            return self.dense().reshape(self.count, -1) @ other.dense().reshape(other.count, -1).T
        if self._positions == 1 and other._positions == 1:
            return self._inner_of_products(other)
        result = self._root.new_zeros(self.count, other.count)
        for features in self._output_slices(other):
            mine = self._form(features).flatten(1)
            theirs = mine if other is self else other._form(features).flatten(1)
            result.addmm_(mine, theirs.T)
        return result

    def combine(self, weights: Tensor) -> Tensor:
        """Return linear combinations of the columns, `[K, out, in]`."""
        weights = weights.reshape(*self._root.shape[:2], -1)
        backpropagated = torch.einsum("cnk,cnlo->nlok", weights, self._root)
        return torch.einsum("nlok,nli->koi", backpropagated, self._input)

    def norm_bound(self) -> Tensor:
        """Return the sum over columns of root norm times input norm, by Cauchy and Schwarz."""
        roots = self._root.square().sum((2, 3)).sqrt()  # [A, B]
        return (roots * self._input.square().sum((1, 2)).sqrt()).sum()

    def dense(self) -> Tensor:
        """Return the columns, `[count, out, in]`."""
        return self._form(slice(None))

    @property
    def _positions(self) -> int:
        return self._input.shape[1]

    def _inner_of_products(self, other: LinearWeightColumns) -> Tensor:
        roots = self._root.flatten(end_dim=-2) @ other._root.flatten(end_dim=-2).T  # [A·B, A'·B']
        inputs = self._input.flatten(1) @ other._input.flatten(1).T  # [B, B']
        blocks = roots.reshape(*self._root.shape[:2], *other._root.shape[:2])  # [A, B, A', B']
        blocks *= inputs[None, :, None, :]
        return blocks.reshape(self.count, other.count)

    def _form(self, features: slice) -> Tensor:
        """Return the columns for some output features, `[count, len(features), in]`."""
        return torch.einsum("cnlo,nli->cnoi", self._root[..., features], self._input).flatten(0, 1)

    def _output_slices(self, other: LinearWeightColumns) -> Iterator[slice]:
        outputs, inputs = self.shape
        width = max(1, SLICE_ELEMENTS // max(1, max(self.count, other.count) * inputs))
        for start in range(0, outputs, width):
            yield slice(start, min(start + width, outputs))

"""Families of operations with a weight: how an operation's input and output give the columns of its weight."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class WeightFamily(ABC):
    """The geometry of an operation with a weight: its root, its features, and the conversion of weights to matrices.

    Shapes: b samples, a columns for each sample, g groups, o outputs and f features of each group, L positions. A
    weight matrix `[g, o, f]` has the weight's entries, in the order of the columns. Families that compare equal order
    the entries equally.
    """

    @property
    @abstractmethod
    def matrix_shape(self) -> tuple[int, int, int]:
        """Shape `(g, o, f)` of a weight matrix."""

    @abstractmethod
    def root(self, backpropagated: Tensor) -> Tensor:
        """Return the columns at the operation's output, `[b, a, *output]`, as the root `[b, a, g, o, L]`."""

    @abstractmethod
    def features_of(self, values: Tensor) -> Tensor:
        """Return the features of an input `[b, *input]`, as `[b, g, L, f]`, without the feature of the bias."""

    def flat_features_of(self, values: Tensor) -> Tensor:
        """Return the features of an input `[b, *input]` with one group and one position, `[b, f]`."""
        return self.features_of(values)[:, 0, 0]

    @abstractmethod
    def to_weights(self, matrices: Tensor) -> Tensor:
        """Return vectors in weight space, `[K, *weight.shape]`, from weight matrices `[K, g, o, f]`."""

    @abstractmethod
    def to_matrices(self, weights: Tensor) -> Tensor:
        """Return weight matrices `[K, g, o, f]` from vectors in weight space: the inverse of `to_weights`."""

    def apply(self, values: Tensor, matrix: Tensor) -> Tensor:
        """Apply the operation with the given weights, without bias: `Σ_f W[g, o, f] A[b, g, l, f]`, `[b, g, o, L]`.

        Args:
            values: Input of the operation, `[b, *input]`.
            matrix: Matrix W, `[g, o, f]`, also with another number of outputs than the weight's.
        """
        return torch.einsum("gof,bglf->bgol", matrix, self.features_of(values))

    def flat_response(self, values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the output of the operation with one weight vector, with one group and one position, `[b, o]`.

        Args:
            values: Input of the operation, `[b, *input]`.
            weight: Weight vector, `[*weight.shape]`.
            bias: Bias, `[o]`; `None` for none.
        """
        response = self.apply(values, self.to_matrices(weight[None])[0])[:, 0, :, 0]
        return response if bias is None else response + bias

    def probe(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return a probe q along the features, and the response of each position to it, `Σ_f A[b, g, l, f] q[g, f]`.

        Args:
            values: Input of the operation, `[b, *input]`.

        Returns:
            Probe `[g, f]` and response `[b, g, L]`.
        """
        groups, _, features = self.matrix_shape
        probe = spread_numbers(groups * features, self.features_of(values[:1])).reshape(groups, features)
        return probe, self.apply(values, probe[:, None])[:, :, 0]

    def weight_gradient(self, values: Tensor, roots: Tensor) -> Tensor:
        """Return the weight matrices `Σ_bl S[k, b, g, o, l] A[b, g, l, f]`, `[K, g, o, f]`, summed over samples.

        Args:
            values: Input of the operation, `[b, *input]`.
            roots: K roots with one column for each sample, `[K, b, g, o, L]`.
        """
        return torch.einsum("kbgol,bglf->kgof", roots, self.features_of(values))

    def summed_products(self, root: Tensor, values: Tensor) -> Tensor:
        """Return `Σ_b S[o, b] A[b, f]` as one weight vector, `[*weight.shape]`, for one group and one position.

        Args:
            root: Root with one column for each sample, `[o, b]`.
            values: Input of the operation, `[b, *input]`.
        """
        return self.to_weights(self.weight_gradient(values, root.T[None, :, None, :, None]))[0]


def spread_numbers(count: int, like: Tensor) -> Tensor:
    """Return irregular but deterministic numbers between -1 and 1, in the dtype and on the device of a tensor."""
    step = 2.399963
    return torch.arange(step, step * (count + 0.5), step, dtype=like.dtype, device=like.device).cos_()

"""A kind of layer with parameters: how root and features give its columns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor


class LayerFamily(ABC):
    """Root and features of a kind of layer, and the conversion between its weight and weight matrices.

    Shapes: b samples, a columns for each sample, g groups, o outputs and f features of each group, L positions. A
    weight matrix `[g, o, f]` has the weight's entries, in the order of the columns.
    """

    def check(self, layer: Any) -> None:  # noqa: B027  # most kinds support every configuration
        """Raise a `CurvatureError` if the layer is configured in a way that the family does not describe."""

    @abstractmethod
    def groups(self, layer: Any) -> int:
        """Return the number of groups."""

    @abstractmethod
    def root(self, layer: Any, backpropagated: Tensor) -> Tensor:
        """Return the columns at the layer output, `[b, a, *output]`, as the root `[b, a, g, o, L]`."""

    @abstractmethod
    def features(self, layer: Any, values: Tensor) -> Tensor:
        """Return the features of an input `[b, *input]`, as `[b, g, L, f]`, without the feature of the bias."""

    @abstractmethod
    def to_weights(self, layer: Any, matrices: Tensor) -> Tensor:
        """Return vectors in weight space, `[K, *weight.shape]`, from weight matrices `[K, g, o, f]`."""

    @abstractmethod
    def to_matrices(self, layer: Any, weights: Tensor) -> Tensor:
        """Return weight matrices `[K, g, o, f]` from vectors in weight space: the inverse of `to_weights`."""

    def apply(self, layer: Any, values: Tensor, matrix: Tensor) -> Tensor:
        """Apply the layer with the given weights, without bias: `Σ_f W[g, o, f] A[b, g, l, f]`, `[b, g, o, L]`.

        Args:
            layer: Layer.
            values: Input of the layer, `[b, *input]`.
            matrix: Weight matrix W, `[g, o, f]`.
        """
        return torch.einsum("gof,bglf->bgol", matrix, self.features(layer, values))

    def probe(self, layer: Any, values: Tensor, features: int) -> tuple[Tensor, Tensor]:
        """Return a probe q along the features, and the response of each position to it, `Σ_f A[b, g, l, f] q[g, f]`.

        Args:
            layer: Layer.
            values: Input of the layer, `[b, *input]`.
            features: Number of features of each group.

        Returns:
            Probe `[g, f]` and response `[b, g, L]`.
        """
        probe = spread_numbers(self.groups(layer) * features, self.features(layer, values[:1])).reshape(-1, features)
        return probe, self.apply(layer, values, probe[:, None])[:, :, 0]

    def weight_gradient(self, layer: Any, values: Tensor, roots: Tensor) -> Tensor:
        """Return the weight matrices `Σ_bl S[k, b, g, o, l] A[b, g, l, f]`, `[K, g, o, f]`, summed over samples.

        Args:
            layer: Layer.
            values: Input of the layer, `[b, *input]`.
            roots: K roots with one column for each sample, `[K, b, g, o, L]`.
        """
        return torch.einsum("kbgol,bglf->kgof", roots, self.features(layer, values))


def spread_numbers(count: int, like: Tensor) -> Tensor:
    """Return irregular but deterministic numbers between -1 and 1, in the dtype and on the device of a tensor."""
    step = 2.399963
    return torch.arange(step, step * (count + 0.5), step, dtype=like.dtype, device=like.device).cos_()

"""What the engine knows about a kind of layer with parameters: which product its columns are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor


class LayerFamily(ABC):
    """Root and features of a kind of layer, and the way from a product back to the layer's weight.

    Shapes: b samples, a columns for each, g groups, o outputs and f features of a group, L positions.
    """

    def check(self, layer: Any) -> None:  # noqa: B027  # most kinds can be used in every way; others raise a CurvatureError
        """Raise if the layer is set up in a way that the family does not describe."""

    @abstractmethod
    def groups(self, layer: Any) -> int:
        """Return the number of groups."""

    @abstractmethod
    def root(self, layer: Any, backpropagated: Tensor) -> Tensor:
        """Return what is backpropagated to the layer output, `[b, a, *output]`, as `[b, a, g, o, L]`."""

    @abstractmethod
    def features(self, layer: Any, values: Tensor) -> Tensor:
        """Return the features of an input `[b, *input]`, without that of the bias, `[b, g, L, f]`."""

    @abstractmethod
    def to_weights(self, layer: Any, matrices: Tensor) -> Tensor:
        """Return vectors in the space of the weight, `[K, *weight.shape]`, from `[K, g, o, f]`."""

    @abstractmethod
    def to_matrices(self, layer: Any, weights: Tensor) -> Tensor:
        """Return what `weight` makes vectors in the space of the weight of, `[K, g, o, f]`."""

    def apply(self, layer: Any, values: Tensor, matrix: Tensor) -> Tensor:
        """Return `Σ_f W[g, o, f] A[b, g, l, f]`, `[b, g, o, L]`: the layer with other weights.

        Args:
            layer: Layer.
            values: Its input, `[b, *input]`.
            matrix: Weights, `[g, o, f]`.
        """
        return torch.einsum("gof,bglf->bgol", matrix, self.features(layer, values))

    def probe(self, layer: Any, values: Tensor, features: int) -> tuple[Tensor, Tensor]:
        """Return a probe q and what the layer makes of it with one output for each group, `Σ_f A[b, g, l, f] q[g, f]`.

        Args:
            layer: Layer.
            values: Its input, `[b, *input]`.
            features: Number of features of a group.

        Returns:
            Probe `[g, f]` and response `[b, g, L]`.
        """
        probe = spread_numbers(self.groups(layer) * features, self.features(layer, values[:1])).reshape(-1, features)
        return probe, self.apply(layer, values, probe[:, None])[:, :, 0]

    def weight_gradient(self, layer: Any, values: Tensor, roots: Tensor) -> Tensor:
        """Return `Σ_bl S[k, b, g, o, l] A[b, g, l, f]`, `[K, g, o, f]`.

        Args:
            layer: Layer.
            values: Its input, `[b, *input]`.
            roots: What is backpropagated to its output, K times, `[K, b, g, o, L]`.
        """
        return torch.einsum("kbgol,bglf->kgof", roots, self.features(layer, values))


def spread_numbers(count: int, like: Tensor) -> Tensor:
    """Return numbers between -1 and 1 without a pattern, the same each time, of a tensor's dtype and device."""
    step = 2.399963
    return torch.arange(step, step * (count + 0.5), step, dtype=like.dtype, device=like.device).cos_()

"""Linear layers, also with axes between the batch axis and the features."""

from __future__ import annotations

from torch import Tensor, nn

from ddn_core.engine.factors.family import LayerFamily, spread_numbers


class LinearFamily(LayerFamily):
    """One group, and a position for each index of the axes between the batch axis and the features."""

    def groups(self, layer: nn.Linear) -> int:
        """Return 1."""
        return 1

    def root(self, layer: nn.Linear, backpropagated: Tensor) -> Tensor:
        """Return the root `[b, a, 1, out, L]`."""
        samples, columns = backpropagated.shape[:2]
        return backpropagated.reshape(samples, columns, 1, -1, layer.out_features).transpose(-1, -2)

    def features(self, layer: nn.Linear, values: Tensor) -> Tensor:
        """Return the input, `[b, 1, L, in]`."""
        return values.reshape(values.shape[0], 1, -1, layer.in_features)

    def to_weights(self, layer: nn.Linear, matrices: Tensor) -> Tensor:
        """Return weight vectors `[K, out, in]`."""
        return matrices[:, 0]

    def to_matrices(self, layer: nn.Linear, weights: Tensor) -> Tensor:
        """Return weight matrices `[K, 1, out, in]`."""
        return weights[:, None]

    def probe(self, layer: nn.Linear, values: Tensor, features: int) -> tuple[Tensor, Tensor]:
        """Return a probe and its response."""
        probe = spread_numbers(features, values)
        return probe[None], (values @ probe).reshape(len(values), 1, -1)

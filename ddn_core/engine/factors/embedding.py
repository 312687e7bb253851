"""Embeddings: linear layers on one-hot features."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from ddn_core.engine.factors.family import LayerFamily
from ddn_core.errors import CurvatureError


class EmbeddingFamily(LayerFamily):
    """A feature for each token of the vocabulary, a position for each entry of the input."""

    def check(self, layer: nn.Embedding) -> None:
        """Check that the layer has no setting that changes the gradient of its weight.

        Raises:
            CurvatureError: `padding_idx`, `max_norm`, `scale_grad_by_freq` or `sparse` is set.
        """
        defaults = {"padding_idx": None, "max_norm": None, "scale_grad_by_freq": False, "sparse": False}
        for setting, default in defaults.items():
            if getattr(layer, setting) != default:
                raise CurvatureError(f"Embedding with {setting} set is not supported. Leave {setting} at {default}.")

    def groups(self, layer: nn.Embedding) -> int:
        """Return 1."""
        return 1

    def root(self, layer: nn.Embedding, backpropagated: Tensor) -> Tensor:
        """Return the root `[b, a, 1, embedding, L]`."""
        samples, columns = backpropagated.shape[:2]
        return backpropagated.reshape(samples, columns, 1, -1, layer.embedding_dim).transpose(-1, -2)

    def features(self, layer: nn.Embedding, values: Tensor) -> Tensor:
        """Return the one-hot tokens of the input, `[b, 1, L, tokens]`."""
        chosen = one_hot(values.reshape(values.shape[0], 1, -1), layer.num_embeddings)
        return chosen.to(torch.promote_types(layer.weight.dtype, torch.float32))

    def to_weights(self, layer: nn.Embedding, matrices: Tensor) -> Tensor:
        """Return weight vectors `[K, tokens, embedding]`."""
        return matrices[:, 0].transpose(1, 2)

    def to_matrices(self, layer: nn.Embedding, weights: Tensor) -> Tensor:
        """Return weight matrices `[K, 1, embedding, tokens]`."""
        return weights.transpose(1, 2)[:, None]

    def apply(self, layer: nn.Embedding, values: Tensor, matrix: Tensor) -> Tensor:
        """Return the columns of the weight matrix at the input's tokens, `[b, 1, o, L]`."""
        return matrix[0][:, values.reshape(values.shape[0], -1)].transpose(0, 1)[:, None]

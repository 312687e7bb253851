"""Embeddings: products of the weight with one-hot features."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ddn_core.engine.factors.family import WeightFamily


@dataclass(frozen=True)
class EmbeddingFamily(WeightFamily):
    """A feature for each token of the vocabulary, a position for each entry of the input.

    Attributes:
        tokens: Number of tokens.
        width: Number of entries of the vector of a token.
        dtype: Dtype of the features, which is that of the columns.
        padding_idx: Token without features: its vector gets no gradient. `None` if every token has one.
    """

    tokens: int
    width: int
    dtype: torch.dtype = torch.float32
    padding_idx: int | None = None

    @property
    def matrix_shape(self) -> tuple[int, int, int]:
        """Shape `(1, width, tokens)`."""
        return 1, self.width, self.tokens

    def root(self, backpropagated: Tensor) -> Tensor:
        """Return the root `[b, a, 1, width, L]` of columns `[b, a, *positions, width]`."""
        samples, columns = backpropagated.shape[:2]
        return backpropagated.reshape(samples, columns, 1, -1, self.width).transpose(-1, -2)

    def features_of(self, values: Tensor) -> Tensor:
        """Return the one-hot tokens of an input `[b, *positions]`, as `[b, 1, L, tokens]`, zero for the padding."""
        features = one_hot(values.reshape(values.shape[0], 1, -1), self.tokens).to(self.dtype)
        if self.padding_idx is not None:
            features[..., self.padding_idx] = 0
        return features

    def to_weights(self, matrices: Tensor) -> Tensor:
        """Return weight vectors `[K, tokens, width]`."""
        return matrices[:, 0].transpose(1, 2)

    def to_matrices(self, weights: Tensor) -> Tensor:
        """Return weight matrices `[K, 1, width, tokens]`."""
        return weights.transpose(1, 2)[:, None]

    def apply(self, values: Tensor, matrix: Tensor) -> Tensor:
        """Return the columns of the matrix at the input's tokens, `[b, 1, o, L]`."""
        tokens = values.reshape(values.shape[0], -1)
        found = matrix[0][:, tokens].transpose(0, 1)
        if self.padding_idx is not None:
            found = found.masked_fill((tokens == self.padding_idx)[:, None], 0)
        return found[:, None]

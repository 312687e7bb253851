"""A decoder of text: a transformer that BackPACK cannot extend, since it calls functions and adds branches."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Block(nn.Module):
    """Causal attention and a perceptron, each after a layer norm and beside a skip connection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.perceptron_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.projections, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs, `[N, T, width]`."""
        projected = self.projections(self.attention_norm(x)).unflatten(-1, (3, self.heads, -1))
        queries, keys, values = projected.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        result: Tensor = x + self.narrow(functional.gelu(self.wide(self.perceptron_norm(x))))
        return result


class Transformer(nn.Module):
    """A language model: embeddings of tokens and positions, blocks, a layer norm and a head."""

    def __init__(self, vocabulary: int, length: int, width: int, layers: int, heads: int, tied: bool = False) -> None:
        """Initialize the model.

        Args:
            vocabulary: Number of tokens.
            length: Number of positions T.
            width: Width of the embeddings.
            layers: Number of blocks.
            heads: Number of heads in each block.
            tied: The head is the embedding of the tokens.
        """
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        if tied:
            self.head.weight = self.tokens.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits, `[N, T, vocabulary]`, for tokens `[N, T]`."""
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        logits: Tensor = self.head(self.norm(self.blocks(self.tokens(tokens) + self.positions(positions))))
        return logits


class TokenCrossEntropy(nn.Module):
    """Mean cross-entropy of logits over all tokens."""

    reduction = "mean"

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of logits `[N, T, vocabulary]` and targets `[N, T]`."""
        return functional.cross_entropy(logits.flatten(0, -2), targets.flatten())

"""Everyday problems with sequences, for recurrent networks and transformers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.architectures.recurrent import Recurrent
from benchmarks.architectures.transformer import Transformer
from benchmarks.everyday.data import generator, split
from benchmarks.everyday.problem import CLASSES, VALUES, EverydayProblem


class LastPosition(nn.Module):
    """A transformer of which only the logits at the last position, `[N, vocabulary]`, are the output."""

    def __init__(self, vocabulary: int, length: int) -> None:
        """Initialize the model.

        Args:
            vocabulary: Number of tokens.
            length: Number of positions T.
        """
        super().__init__()
        self.transformer = Transformer(vocabulary, length, width=16, layers=1, heads=2)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits for tokens `[N, T]`."""
        logits: Tensor = self.transformer(tokens)[:, -1]
        return logits


def adding() -> EverydayProblem:
    """Return the adding problem: the sum of the two marked numbers in a sequence of ten."""
    source = generator()
    values = torch.rand(800, 10, generator=source)
    marked = torch.rand(800, 10, generator=source).argsort(1) < 2
    inputs, targets = torch.stack([values, marked.float()], 2), (values * marked).sum(1, keepdim=True)
    return EverydayProblem(
        "sum of two marked numbers; GRU of 16 units",
        *split(inputs, targets, 500),
        lambda: Recurrent(2, 16, 1, nn.GRU),
        VALUES,
    )


def majority() -> EverydayProblem:
    """Return sequences of eight tokens of four kinds; the class is the most frequent kind."""
    tokens = torch.randint(4, (1000, 8), generator=generator())
    counts = (tokens[:, :, None] == torch.arange(4)).sum(1)
    return EverydayProblem(
        "most frequent of 4 tokens; transformer of width 16",
        *split(tokens, counts.argmax(1), 600),
        lambda: LastPosition(4, 8),
        CLASSES,
    )


def waves() -> EverydayProblem:
    """Return four shapes of waves for a recurrent network."""
    signals, shapes = _waves()
    return EverydayProblem(
        "4 shapes of waves; LSTM of 16 units",
        *split(signals[:, :, None], shapes, 500),
        lambda: Recurrent(1, 16, 4, nn.LSTM),
        CLASSES,
    )


def waves_batch_norm() -> EverydayProblem:
    """Return four shapes of waves for a network with batch normalization."""
    signals, shapes = _waves()

    def build() -> nn.Module:
        first = [nn.Linear(16, 32, bias=False), nn.BatchNorm1d(32), nn.Tanh()]
        second = [nn.Linear(32, 32, bias=False), nn.BatchNorm1d(32), nn.Tanh()]
        return nn.Sequential(*first, *second, nn.Linear(32, 4))

    return EverydayProblem(
        "4 shapes of waves; tanh MLP 16-32-32-4, batch norm", *split(signals, shapes, 500), build, CLASSES
    )


def _waves() -> tuple[Tensor, Tensor]:
    """Return noisy sine, square, triangle and sawtooth waves of random phase and frequency, and their shapes."""
    source = generator()
    kinds = torch.randint(4, (800,), generator=source)
    phases, frequencies = torch.rand(2, 800, 1, generator=source)
    cycles = (phases + (1 + frequencies) * torch.linspace(0, 1, 16)) % 1
    shapes = torch.stack(
        [
            (2 * torch.pi * cycles).sin(),
            torch.where(cycles < 0.5, 1.0, -1.0),
            4 * (cycles - 0.5).abs() - 1,
            2 * cycles - 1,
        ]
    )
    clean = shapes[kinds, torch.arange(800)]
    return clean + 0.1 * torch.randn(800, 16, generator=source), kinds


def recall() -> EverydayProblem:
    """Return four pairs of a key and a value, in random order, and a key at the end; the class is the key's value."""
    source = generator()
    keys = torch.rand(700, 4, generator=source).argsort(1)
    values = torch.randint(4, 8, (700, 4), generator=source)
    asked = torch.randint(4, (700, 1), generator=source)
    tokens = torch.cat([torch.stack([keys, values], 2).flatten(1), keys.gather(1, asked)], 1)
    return EverydayProblem(
        "value of a key among 4 pairs; transformer of width 16",
        *split(tokens, values.gather(1, asked)[:, 0], 400),
        lambda: LastPosition(8, 9),
        CLASSES,
        batch_size=16,
    )

"""Small models of many kinds, whose dense curvature fits the memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.architectures.perceptron import perceptron
from benchmarks.architectures.recurrent import Recurrent
from benchmarks.architectures.transformer import TokenCrossEntropy, Transformer
from benchmarks.problems import Batch

_SEED = 3
_SAMPLES, _CLASSES, _POSITIONS, _VOCABULARY = 6, 3, 4, 7


@dataclass(frozen=True)
class SmallModel:
    """A small model to verify.

    Attributes:
        build: Function that returns the model with a batch.
        mc_samples: Number of Monte-Carlo samples; 0 for the exact GGN.
    """

    build: Callable[[], Batch]
    mc_samples: int = 0

    def make(self) -> Batch:
        """Return the model with its batch on the CPU, the same every time."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            return self.build()


class Residual(nn.Module):
    """Blocks of layer norm, linear layer and GELU, each beside a skip connection, and a head."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU()) for _ in range(blocks)
        )
        self.head = nn.Linear(width, _CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs, `[N, classes]`."""
        for block in self.blocks:
            x = x + block(x)
        logits: Tensor = self.head(x)
        return logits


def _classification(model: nn.Module, *sample_shape: int) -> Batch:
    inputs, targets = torch.randn(_SAMPLES, *sample_shape), torch.randint(_CLASSES, (_SAMPLES,))
    return Batch(model, nn.CrossEntropyLoss(), inputs, targets)


def _convolutional(training: bool) -> Batch:
    norm = nn.BatchNorm2d(3)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    assert norm.running_mean is not None
    norm.running_mean.normal_()
    layers = [nn.Conv2d(2, 3, 3, padding=1), norm, nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 2), nn.Tanh()]
    return _classification(nn.Sequential(*layers, nn.Flatten(), nn.Linear(4, _CLASSES)).train(training), 2, 4, 4)


def _language(tied: bool) -> Batch:
    model = Transformer(_VOCABULARY, _POSITIONS, width=6, layers=1, heads=2, tied=tied)
    shape = (_SAMPLES, _POSITIONS)
    return Batch(model, TokenCrossEntropy(), torch.randint(_VOCABULARY, shape), torch.randint(_VOCABULARY, shape))


SMALL_MODELS: dict[str, SmallModel] = {
    "MLP": SmallModel(lambda: _classification(perceptron([5, 8, 6, _CLASSES]), 5)),
    "CNN, batch norm in evaluation": SmallModel(lambda: _convolutional(training=False)),
    "CNN, batch norm in training": SmallModel(lambda: _convolutional(training=True)),
    "residual, layer norm": SmallModel(lambda: _classification(Residual(6, 2), 6)),
    "transformer, MC-1": SmallModel(lambda: _language(tied=False), mc_samples=1),
    "LSTM": SmallModel(lambda: _classification(Recurrent(4, 5, _CLASSES), _POSITIONS, 4)),
    "tied language model": SmallModel(lambda: _language(tied=True)),
}
"""All small models by name, in the order of tables."""

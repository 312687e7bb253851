"""Multi-layer perceptrons."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from torch import nn

from benchmarks.architectures.architecture import Architecture, Size


def perceptron(widths: list[int], activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    """Return linear layers of the given widths, input and output included, with activations in between."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), activation()]
    return nn.Sequential(*layers[:-1])


def _mlp_64(size: Size) -> nn.Sequential:
    return perceptron([64, 128 * size.width, 64 * size.width, size.classes])


def _mlp_784(size: Size) -> nn.Sequential:
    return perceptron([784, 256 * size.width, 128 * size.width, size.classes])


def _mlp_deep(size: Size) -> nn.Sequential:
    return perceptron([64, *[64 * size.width] * size.depth, size.classes])


MLP_64 = Architecture("MLP 64-128-64-10", _mlp_64, Size(), (64,), samples=128, samples_monte_carlo=128)
MLP_784 = Architecture("MLP 784-256-128-10", _mlp_784, Size(), (784,), samples=64, samples_monte_carlo=64)
MLP_DEEP = Architecture("MLP of 64s", _mlp_deep, Size(depth=8), (64,), samples=64, samples_monte_carlo=64)

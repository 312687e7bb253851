"""The networks of the problems."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from torch.nn import Module, Sequential

Activation: TypeAlias = Literal["relu", "sigmoid", "tanh"]


def fully_connected(widths: Sequence[int], activation: Activation) -> Sequential:
    """Return linear layers with activations between them.

    Args:
        widths: Number of inputs, widths of the hidden layers, and number of outputs.
        activation: Name of the activation.
    """
    from torch.nn import Linear, ReLU, Sequential, Sigmoid, Tanh

    between: type[Module] = {"relu": ReLU, "sigmoid": Sigmoid, "tanh": Tanh}[activation]
    layers: list[Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [Linear(inputs, outputs), between()]
    return Sequential(*layers[:-1])


def convolutional(channels: int, widths: Sequence[int], size: int, classes: int) -> Sequential:
    """Return 3 × 3 convolutions, each followed by a ReLU and a pooling that halves the image, and a last linear layer.

    Args:
        channels: Number of channels of an image.
        widths: Output channels of the convolutions.
        size: Height and width of an image, at least two to the power of the number of convolutions.
        classes: Number of outputs.
    """
    from torch.nn import Conv2d, Flatten, Linear, MaxPool2d, ReLU, Sequential

    layers: list[Module] = []
    for inputs, outputs in pairwise([channels, *widths]):
        layers += [Conv2d(inputs, outputs, kernel_size=3, padding=1), ReLU(), MaxPool2d(2)]
    last = size // 2 ** len(widths)
    return Sequential(*layers, Flatten(), Linear(widths[-1] * last**2, classes))

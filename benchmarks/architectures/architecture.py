"""Description of a benchmark network: a builder for any size, and the batch sizes that are measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Size:
    """Size of a network.

    Attributes:
        classes: Number of model outputs.
        width: Factor on the number of units or channels of every hidden layer.
        depth: Number of hidden layers if the network can be built in several depths, otherwise 0.
    """

    classes: int = 10
    width: int = 1
    depth: int = 0


@dataclass(frozen=True)
class Architecture:
    """A network that can be built in any size, with the shape of its inputs and its batch sizes.

    Attributes:
        title: Name in tables.
        build: Function that builds the network; its weights are set afterwards.
        size: Size in the comparison with ViViT.
        sample_shape: Shape of one input.
        samples: Batch size with the exact GGN.
        samples_monte_carlo: Batch size with one Monte-Carlo sample.
    """

    title: str
    build: Callable[[Size], nn.Sequential]
    size: Size
    sample_shape: tuple[int, ...]
    samples: int
    samples_monte_carlo: int

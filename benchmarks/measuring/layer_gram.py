"""Cheapest known ways to compute a layer's share of the Gram matrix VᵀV from its inputs and backpropagated vectors.

The Gram matrix is symmetric, so each way computes only its upper triangle, with the diagonal. Linear layers order their
columns class first, `(c, n)`, and other layers sample first, `(n, c)`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import unfold

from benchmarks.measuring.clock import seconds_of

_BLOCK_COUNTS = (1, 2, 4, 8)
_RUNS, _SHORT = 3, 0.1
Way = Callable[[Tensor], None]


class LayerGram(ABC):
    """A layer's share of the Gram matrix.

    Attributes:
        vectors: Vectors that were backpropagated to the layer's output, `[C, N, *output]`.
    """

    def __init__(self, vectors: Tensor) -> None:
        self.vectors = vectors

    def ways(self) -> list[Way]:
        """Return all ways to add the upper triangle of the share to a Gram matrix."""
        return [partial(self.add_blocks, count=count) for count in _BLOCK_COUNTS]

    @abstractmethod
    def add_blocks(self, gram: Tensor, count: int) -> None:
        """Add the upper triangle of the share, each block of columns multiplied with itself and all later blocks.

        Args:
            gram: Gram matrix, `[R, R]`, which is changed in place.
            count: Number of blocks.
        """


class LinearGram(LayerGram):
    """Linear layer: `(S Sᵀ) ∘ (A Aᵀ + 1)` with the backpropagated vectors S and layer inputs A, repeated C times."""

    def __init__(self, vectors: Tensor, inputs: Tensor) -> None:
        super().__init__(vectors)
        self._inputs = inputs  # [N, in]

    def add_blocks(self, gram: Tensor, count: int) -> None:
        """Add the upper triangle of the share."""
        classes, samples = self.vectors.shape[:2]
        similarity = self._inputs @ self._inputs.T + 1
        for begin, end in _blocks(classes, count):
            share = self.vectors[begin:end].flatten(0, 1) @ self.vectors[begin:].flatten(0, 1).T
            share.view(end - begin, samples, classes - begin, samples).mul_(similarity[:, None, :])
            gram[begin * samples : end * samples, begin * samples :] += share


class FormedGram(LayerGram):
    """A layer whose part of V is formed first."""

    @abstractmethod
    def rows(self) -> Tensor:
        """Return this layer's part of Vᵀ, `[N C, P]`."""

    def add_blocks(self, gram: Tensor, count: int) -> None:
        """Add the upper triangle of the share."""
        rows = self.rows()
        for begin, end in _blocks(len(rows), count):
            gram[begin:end, begin:].addmm_(rows[begin:end], rows[begin:].T)


class ConvolutionGram(FormedGram):
    """Convolution without groups, from its unfolded input.

    One way forms the layer's part of V, by one product for each sample. The other way, which is cheaper for few
    positions, multiplies the unfolded inputs of each pair of samples at all pairs of positions, as in a linear layer
    with a sequence axis.
    """

    def __init__(self, vectors: Tensor, inputs: Tensor, layer: nn.Conv2d) -> None:
        super().__init__(vectors.flatten(3))  # [C, N, out, L]
        self._inputs, self._layer = inputs, layer

    def ways(self) -> list[Way]:
        """Return all ways to add the upper triangle of the share."""
        return [*super().ways(), self.add_pairs]

    def rows(self) -> Tensor:
        """Return this layer's part of Vᵀ."""
        return torch.bmm(self._vectors_of_samples(), self._patches().transpose(1, 2)).view(self._columns(), -1)

    def add_pairs(self, gram: Tensor) -> None:
        """Add the upper triangle of the share, by pairs of samples."""
        patches, vectors = self._patches(), self._vectors_of_samples()
        samples, classes = len(patches), len(self.vectors)
        for n in range(samples):
            similarity = torch.matmul(patches[n].T, patches[n:])  # [N - n, L, L]
            moved = torch.bmm(vectors[n].expand(samples - n, -1, -1), similarity)  # [N - n, C out, L]
            share = torch.bmm(
                moved.view(samples - n, classes, -1), vectors[n:].view(samples - n, classes, -1).transpose(1, 2)
            )
            gram[n * classes : (n + 1) * classes, n * classes :] += share.transpose(0, 1).flatten(1)

    def _columns(self) -> int:
        return self.vectors.shape[0] * self.vectors.shape[1]

    def _vectors_of_samples(self) -> Tensor:
        """Return the backpropagated vectors, `[N, C out, L]`."""
        classes, samples, outputs, positions = self.vectors.shape
        return self.vectors.transpose(0, 1).reshape(samples, classes * outputs, positions)

    def _patches(self) -> Tensor:
        """Return the unfolded input with a row of ones for the bias, `[N, in * kernel + 1, L]`."""
        layer = self._layer
        assert not isinstance(layer.padding, str)
        patches = unfold(self._inputs, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
        if layer.bias is None:
            return patches
        return torch.cat([patches, patches.new_ones(len(patches), 1, patches.shape[2])], 1)


class BatchNormGram(FormedGram):
    """Batch normalization in evaluation mode, whose weight and bias have one entry for each channel."""

    def __init__(self, vectors: Tensor, inputs: Tensor, layer: nn.BatchNorm2d) -> None:
        super().__init__(vectors)
        assert layer.running_mean is not None
        assert layer.running_var is not None
        deviation = (layer.running_var + layer.eps).sqrt()
        self._normalized = (inputs - layer.running_mean[:, None, None]) / deviation[:, None, None]

    def rows(self) -> Tensor:
        """Return this layer's part of Vᵀ."""
        weight = torch.einsum("cnohw,nohw->nco", self.vectors, self._normalized)
        return torch.cat([weight, self.vectors.sum((3, 4)).transpose(0, 1)], 2).flatten(0, 1)


def layer_gram(layer: nn.Module, inputs: Tensor, vectors: Tensor) -> LayerGram:
    """Return the object that computes a layer's share of the Gram matrix.

    Args:
        layer: Layer with parameters.
        inputs: Input of the layer, `[N, *input]`.
        vectors: Vectors that were backpropagated to its output, `[C, N, *output]`.

    Raises:
        TypeError: No network of the benchmark has such a layer.
    """
    if isinstance(layer, nn.Linear):
        return LinearGram(vectors, inputs)
    if isinstance(layer, nn.Conv2d):
        return ConvolutionGram(vectors, inputs, layer)
    if isinstance(layer, nn.BatchNorm2d):
        return BatchNormGram(vectors, inputs, layer)
    raise TypeError(f"The cheapest contraction for {type(layer).__name__} is not known.")


def fastest_way(layer: LayerGram) -> Way:
    """Return the way to a layer's share of the Gram matrix that takes the least time."""
    gram = _zeros(layer)

    def seconds(way: Way) -> float:
        first = seconds_of(partial(way, gram), gram.device.type)
        again = _RUNS if first < _SHORT else 0
        return min([first, *(seconds_of(partial(way, gram), gram.device.type) for _ in range(again))])

    return min(layer.ways(), key=seconds)


def total_gram(layers: list[LayerGram], ways: list[Way]) -> Tensor:
    """Return the Gram matrix of one group, class first, `[C N, C N]`.

    Args:
        layers: Layers of the group.
        ways: Way to compute the share of each layer.
    """
    gram, formed = _zeros(layers[0]), _zeros(layers[0])
    for layer, way in zip(layers, ways, strict=True):
        way(formed if isinstance(layer, FormedGram) else gram)
    gram = _from_upper_triangle(gram)
    if any(isinstance(layer, FormedGram) for layer in layers):
        classes, samples = layers[0].vectors.shape[:2]
        ordered = _from_upper_triangle(formed).view(samples, classes, samples, classes).permute(1, 0, 3, 2)
        gram.view(classes, samples, classes, samples).add_(ordered)
    return gram


def _zeros(layer: LayerGram) -> Tensor:
    columns = layer.vectors.shape[0] * layer.vectors.shape[1]
    return layer.vectors.new_zeros(columns, columns)


def _from_upper_triangle(matrix: Tensor) -> Tensor:
    return matrix.triu() + matrix.triu(1).T


def _blocks(length: int, count: int) -> list[tuple[int, int]]:
    """Return begin and end of each block; the sizes of the blocks differ by at most one."""
    ends = [length * (block + 1) // count for block in range(count)]
    return [(begin, end) for begin, end in zip([0, *ends[:-1]], ends, strict=True) if begin < end]

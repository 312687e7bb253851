"""Convolutions and transposed convolutions of one to three dimensions, as matrix products with the unfolded input."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional, grad

from ddn_core.engine.factors.family import WeightFamily, spread_numbers

WEIGHT_GRADIENT = {1: grad.conv1d_weight, 2: grad.conv2d_weight, 3: grad.conv3d_weight}
CONVOLVE = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


@dataclass(frozen=True)
class ConvolutionFamily(WeightFamily):
    """A feature for each pair of an input channel of the group and a kernel entry, a position for each output pixel.

    Attributes:
        weight_shape: Shape of the weight, `(out, in / g, *kernel)`.
        stride: Stride along each spatial axis.
        padding: Number of zeros on both sides of each spatial axis.
        dilation: Distance of the kernel entries along each spatial axis.
        groups: Number of groups, g.
    """

    weight_shape: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @property
    def kernel(self) -> tuple[int, ...]:
        """Shape of the kernel."""
        return self.weight_shape[2:]

    @property
    def matrix_shape(self) -> tuple[int, int, int]:
        """Shape `(g, out / g, in / g · kernel)`."""
        return self.groups, self.weight_shape[0] // self.groups, math.prod(self.weight_shape[1:])

    def root(self, backpropagated: Tensor) -> Tensor:
        """Return the root `[b, a, g, out / g, L]` of columns `[b, a, out, *pixels]`."""
        groups, outputs, _ = self.matrix_shape
        return backpropagated.reshape(*backpropagated.shape[:2], groups, outputs, -1)

    def features_of(self, values: Tensor) -> Tensor:
        """Return the unfolded input, `[b, g, L, in / g · kernel]`."""
        return _unfold(values, self.kernel, self.stride, self.padding, self.dilation, self.groups)

    def to_weights(self, matrices: Tensor) -> Tensor:
        """Return weight vectors `[K, out, in / g, *kernel]`."""
        return matrices.reshape(len(matrices), *self.weight_shape)

    def to_matrices(self, weights: Tensor) -> Tensor:
        """Return weight matrices `[K, g, out / g, in / g · kernel]`."""
        return weights.reshape(len(weights), *self.matrix_shape)

    def apply(self, values: Tensor, matrix: Tensor) -> Tensor:
        """Return the convolution with the given weights, `[b, g, o, L]`."""
        groups, outputs, _ = matrix.shape
        weight = matrix.reshape(groups * outputs, *self.weight_shape[1:])
        return self._convolve(values, weight).reshape(len(values), groups, outputs, -1)

    def probe(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return a probe of rank one, and its response.

        The probe is the product of a vector over the channels and a vector over the kernel entries. So the channels are
        summed first, with one multiplication for each input pixel and channel, and the kernel is applied to one
        channel.
        """
        groups, channels = self.groups, self.weight_shape[1]
        over_channels = spread_numbers(groups * channels, values).reshape(groups, channels)
        over_kernel = spread_numbers(math.prod(self.kernel), values)
        grouped = values.reshape(len(values), groups, channels, -1)
        summed = (over_channels[:, None] @ grouped).reshape(len(values), groups, *values.shape[2:])
        kernels = over_kernel.reshape(1, 1, *self.kernel).expand(groups, 1, *self.kernel)
        response = self._convolve(summed, kernels.contiguous())
        return (over_channels[..., None] * over_kernel).flatten(1), response.flatten(2)

    def weight_gradient(self, values: Tensor, roots: Tensor) -> Tensor:
        """Return the gradients of the weight, `[K, g, o, f]`."""
        differentiate = WEIGHT_GRADIENT[len(self.stride)]
        margins = [size + 2 * padding for size, padding in zip(values.shape[2:], self.padding, strict=True)]
        shape = (len(values), self.weight_shape[0], *_lengths(margins, self.kernel, self.stride, self.dilation))
        gradients = [
            differentiate(  # type: ignore[no-untyped-call]
                values, self.weight_shape, root.reshape(shape), self.stride, self.padding, self.dilation, self.groups
            )
            for root in roots
        ]
        return self.to_matrices(torch.stack(gradients))

    def _convolve(self, values: Tensor, weight: Tensor) -> Tensor:
        convolve = CONVOLVE[len(self.stride)]
        return convolve(values, weight, None, self.stride, self.padding, self.dilation, self.groups)


@dataclass(frozen=True)
class TransposedConvolutionFamily(ConvolutionFamily):
    """A transposed convolution as a convolution with stride 1, of a spread input with a flipped kernel.

    The input gets `stride - 1` zeros between its pixels, margins of `dilation · (kernel - 1) - padding`, and the output
    padding at the end. The shape of the weight is `(in, out / g, *kernel)`.

    Attributes:
        output_padding: Number of pixels that are added at the end of each spatial axis of the output.
    """

    output_padding: tuple[int, ...]

    @property
    def matrix_shape(self) -> tuple[int, int, int]:
        """Shape `(g, out / g, in / g · kernel)`."""
        channels, outputs = self.weight_shape[:2]
        return self.groups, outputs, channels // self.groups * math.prod(self.kernel)

    def features_of(self, values: Tensor) -> Tensor:
        """Return the unfolded input, `[b, g, L, in / g · kernel]`."""
        spread = values.new_zeros(
            *values.shape[:2],
            *((size - 1) * stride + 1 for size, stride in zip(values.shape[2:], self.stride, strict=True)),
        )
        every = tuple(slice(None, None, stride) for stride in (1, 1, *self.stride))
        spread[every] = values
        margins: list[int] = []
        for kernel, dilation, padding, extra in zip(
            self.kernel, self.dilation, self.padding, self.output_padding, strict=True
        ):
            before = dilation * (kernel - 1) - padding
            margins = [before, before + extra, *margins]  # torch lists the last axis first; negative margins crop
        ones = (1,) * len(self.kernel)
        padded = functional.pad(spread, margins)
        return _unfold(padded, self.kernel, ones, (0,) * len(ones), self.dilation, self.groups)

    def to_weights(self, matrices: Tensor) -> Tensor:
        """Return weight vectors `[K, in, out / g, *kernel]`."""
        count, groups, outputs = matrices.shape[:3]
        kernels = matrices.reshape(count, groups, outputs, -1, *self.kernel)
        return self._flip(kernels).transpose(2, 3).reshape(count, *self.weight_shape)

    def to_matrices(self, weights: Tensor) -> Tensor:
        """Return weight matrices `[K, g, out / g, in / g · kernel]`."""
        count, (groups, outputs, features) = len(weights), self.matrix_shape
        kernels = weights.reshape(count, groups, -1, outputs, *self.kernel).transpose(2, 3)
        return self._flip(kernels).reshape(count, groups, outputs, features)

    def apply(self, values: Tensor, matrix: Tensor) -> Tensor:
        """Return `Σ_f W[g, o, f] A[b, g, l, f]`, `[b, g, o, L]`."""
        return WeightFamily.apply(self, values, matrix)

    def probe(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return a probe and its response."""
        return WeightFamily.probe(self, values)

    def weight_gradient(self, values: Tensor, roots: Tensor) -> Tensor:
        """Return `Σ_bl S[k, b, g, o, l] A[b, g, l, f]`, `[K, g, o, f]`."""
        return WeightFamily.weight_gradient(self, values, roots)

    def _flip(self, kernels: Tensor) -> Tensor:
        return kernels.flip(tuple(range(-len(self.kernel), 0)))


def _lengths(
    sizes: Sequence[int], kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...]
) -> list[int]:
    """Return the number of positions of a kernel along each axis of a padded input."""
    return [
        (size - reach * (width - 1) - 1) // step + 1
        for size, width, step, reach in zip(sizes, kernel, stride, dilation, strict=True)
    ]


def _unfold(
    values: Tensor,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> Tensor:
    """Return the input patches of a convolution, `[b, g, L, in / g · kernel]`."""
    if any(padding):
        values = functional.pad(values, [width for axis in reversed(padding) for width in (axis, axis)])
    lengths = _lengths(values.shape[2:], kernel, stride, dilation)
    values = values.contiguous()
    steps = values.stride()[2:]
    samples, channels = values.shape[0], values.shape[1] // groups
    patches = torch.as_strided(
        values,
        (samples, groups, channels, *kernel, *lengths),
        (
            values.stride(0),
            channels * values.stride(1),
            values.stride(1),
            *(step * reach for step, reach in zip(steps, dilation, strict=True)),
            *(step * width for step, width in zip(steps, stride, strict=True)),
        ),
    )
    unfolded = patches.reshape(samples, groups, channels * math.prod(kernel), math.prod(lengths))
    return unfolded.transpose(-1, -2)  # copying with positions last is several times faster

"""Convolutions and transposed convolutions of one to three dimensions, as linear layers on the unfolded input."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional, grad

from ddn_core.engine.factors.family import LayerFamily, spread_numbers
from ddn_core.errors import CurvatureError

WEIGHT_GRADIENT = {1: grad.conv1d_weight, 2: grad.conv2d_weight, 3: grad.conv3d_weight}
CONVOLVE = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


class ConvolutionFamily(LayerFamily):
    """A feature for each pair of an input channel of the group and a kernel entry, a position for each output pixel."""

    def check(self, layer: Any) -> None:
        """Check that the layer pads with given numbers of zeros.

        Raises:
            CurvatureError: The padding is a string, or its mode is not `"zeros"`.
        """
        if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
            raise CurvatureError(
                f"{type(layer).__name__} with padding={layer.padding!r} and padding_mode={layer.padding_mode!r} is not "
                "supported. Give the padding as numbers, with padding_mode='zeros'."
            )

    def groups(self, layer: Any) -> int:
        """Return the number of groups."""
        return int(layer.groups)

    def root(self, layer: Any, backpropagated: Tensor) -> Tensor:
        """Return the root `[b, a, g, out / g, L]`."""
        return backpropagated.reshape(*backpropagated.shape[:2], layer.groups, layer.out_channels // layer.groups, -1)

    def features(self, layer: Any, values: Tensor) -> Tensor:
        """Return the unfolded input, `[b, g, L, in / g · kernel]`."""
        return _unfold(values, layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups)

    def to_weights(self, layer: Any, matrices: Tensor) -> Tensor:
        """Return weight vectors `[K, out, in / g, *kernel]`."""
        return matrices.reshape(matrices.shape[0], *layer.weight.shape)

    def to_matrices(self, layer: Any, weights: Tensor) -> Tensor:
        """Return weight matrices `[K, g, out / g, in / g · kernel]`."""
        return weights.reshape(weights.shape[0], layer.groups, layer.out_channels // layer.groups, -1)

    def apply(self, layer: Any, values: Tensor, matrix: Tensor) -> Tensor:
        """Return the convolution with the given weights, `[b, g, o, L]`."""
        groups, outputs, _ = matrix.shape
        weight = matrix.reshape(groups * outputs, *layer.weight.shape[1:])
        convolve = CONVOLVE[len(layer.kernel_size)]
        result = convolve(values, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)
        return result.reshape(len(values), groups, outputs, -1)

    def probe(self, layer: Any, values: Tensor, features: int) -> tuple[Tensor, Tensor]:
        """Return a probe of rank one, and its response.

        The probe is the product of a vector over the channels and a vector over the kernel entries. So the channels are
        summed first, with one multiplication for each input pixel and channel, and the kernel is applied to one
        channel.
        """
        channels = values.shape[1] // layer.groups
        over_channels = spread_numbers(values.shape[1], values).reshape(layer.groups, channels)
        over_kernel = spread_numbers(features // channels, values)
        grouped = values.reshape(len(values), layer.groups, channels, -1)
        summed = (over_channels[:, None] @ grouped).reshape(len(values), layer.groups, *values.shape[2:])
        kernels = over_kernel.reshape(1, 1, *layer.kernel_size).expand(layer.groups, 1, *layer.kernel_size)
        convolve = CONVOLVE[len(layer.kernel_size)]
        response = convolve(
            summed, kernels.contiguous(), None, layer.stride, layer.padding, layer.dilation, layer.groups
        )
        return (over_channels[..., None] * over_kernel).flatten(1), response.flatten(2)

    def weight_gradient(self, layer: Any, values: Tensor, roots: Tensor) -> Tensor:
        """Return the gradients of the weight, `[K, g, o, f]`."""
        differentiate = WEIGHT_GRADIENT[len(layer.kernel_size)]
        lengths = [
            (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
            for size, padding, dilation, kernel, stride in zip(
                values.shape[2:], layer.padding, layer.dilation, layer.kernel_size, layer.stride, strict=True
            )
        ]
        shape = (len(values), layer.out_channels, *lengths)
        gradients = [
            differentiate(  # type: ignore[no-untyped-call]
                values,
                layer.weight.shape,
                root.reshape(shape),
                layer.stride,
                layer.padding,
                layer.dilation,
                layer.groups,
            )
            for root in roots
        ]
        return self.to_matrices(layer, torch.stack(gradients))


class TransposedConvolutionFamily(ConvolutionFamily):
    """A transposed convolution as a convolution with stride 1, of a spread input with a flipped kernel.

    The input gets `stride - 1` zeros between its pixels, margins of `dilation · (kernel - 1) - padding`, and the output
    padding at the end.
    """

    def features(self, layer: Any, values: Tensor) -> Tensor:
        """Return the unfolded input, `[b, g, L, in / g · kernel]`."""
        spread = values.new_zeros(
            *values.shape[:2],
            *((size - 1) * stride + 1 for size, stride in zip(values.shape[2:], layer.stride, strict=True)),
        )
        every = tuple(slice(None, None, stride) for stride in (1, 1, *layer.stride))
        spread[every] = values
        margins: list[int] = []
        for kernel, dilation, padding, extra in zip(
            layer.kernel_size, layer.dilation, layer.padding, layer.output_padding, strict=True
        ):
            before = dilation * (kernel - 1) - padding
            margins = [before, before + extra, *margins]  # torch lists the last axis first; negative margins crop
        ones = (1,) * len(layer.kernel_size)
        padded = functional.pad(spread, margins)
        return _unfold(padded, layer.kernel_size, ones, (0,) * len(ones), layer.dilation, layer.groups)

    def to_weights(self, layer: Any, matrices: Tensor) -> Tensor:
        """Return weight vectors `[K, in, out / g, *kernel]`."""
        count, groups, outputs = matrices.shape[:3]
        kernels = matrices.reshape(count, groups, outputs, -1, *layer.kernel_size)
        return self._flip(layer, kernels).transpose(2, 3).reshape(count, *layer.weight.shape)

    def to_matrices(self, layer: Any, weights: Tensor) -> Tensor:
        """Return weight matrices `[K, g, out / g, in / g · kernel]`."""
        count, outputs = weights.shape[0], layer.out_channels // layer.groups
        kernels = weights.reshape(count, layer.groups, -1, outputs, *layer.kernel_size).transpose(2, 3)
        return self._flip(layer, kernels).reshape(count, layer.groups, outputs, -1)

    def apply(self, layer: Any, values: Tensor, matrix: Tensor) -> Tensor:
        """Return `Σ_f W[g, o, f] A[b, g, l, f]`, `[b, g, o, L]`."""
        return LayerFamily.apply(self, layer, values, matrix)

    def probe(self, layer: Any, values: Tensor, features: int) -> tuple[Tensor, Tensor]:
        """Return a probe and its response."""
        return LayerFamily.probe(self, layer, values, features)

    def weight_gradient(self, layer: Any, values: Tensor, roots: Tensor) -> Tensor:
        """Return `Σ_bl S[k, b, g, o, l] A[b, g, l, f]`, `[K, g, o, f]`."""
        return LayerFamily.weight_gradient(self, layer, values, roots)

    def _flip(self, layer: Any, kernels: Tensor) -> Tensor:
        return kernels.flip(tuple(range(-len(layer.kernel_size), 0)))


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
    lengths = [
        (size - reach * (width - 1) - 1) // step + 1
        for size, width, step, reach in zip(values.shape[2:], kernel, stride, dilation, strict=True)
    ]
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

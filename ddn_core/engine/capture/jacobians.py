"""Backpropagation of many columns through a layer: the transposed Jacobian of each supported kind of layer.

Each function here gets the call of a layer for some samples. It returns a map from columns at the output,
`[b, a, *output]`, to columns at each input, `[b, a, *input]`. Everything that does not depend on the columns is
computed once, before the map is applied. The map may overwrite the columns, since nothing else refers to them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from backpack.custom_module.branching import SumModule
from backpack.custom_module.pad import Pad
from backpack.custom_module.scale_module import ScaleModule
from backpack.custom_module.slicing import Slicing
from torch import Tensor, nn
from torch.nn import Module, functional

from ddn_core.engine.capture.dropout import dropout_mask
from ddn_core.engine.capture.memory_order import channels_last, ordered_like
from ddn_core.engine.capture.tape import LayerCall
from ddn_core.errors import CurvatureError

Backward = Callable[[Tensor], tuple[Tensor, ...]]

TRANSPOSED = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}
CONVOLVE = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
POOL = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}


def transposed_jacobian(call: LayerCall, samples: slice, dtype: torch.dtype) -> Backward:
    """Return the map from columns at a layer's output to columns at its inputs.

    Args:
        call: Call of the layer.
        samples: Samples of the columns.
        dtype: Dtype of the columns.
    """
    return JACOBIANS[type(call.layer)](call, samples, dtype)


def _per_column(function: Callable[[Tensor], Tensor]) -> Backward:
    """Return the map that applies a function to columns as if each one were a sample."""

    def backward(columns: Tensor) -> tuple[Tensor, ...]:
        result = function(columns.flatten(0, 1))
        return (result.reshape(*columns.shape[:2], *result.shape[1:]),)

    return backward


def _product(slopes: Tensor) -> Backward:
    """Return the map that multiplies the columns of each sample by its slopes, `[b, *output]`."""
    return lambda columns: (columns.mul_(ordered_like(slopes, columns[0])[:, None]),)


def _linear(call: LayerCall, samples: slice, dtype: torch.dtype) -> Backward:
    weight = _parameter(call, "weight", dtype)
    return lambda columns: (columns @ weight,)


def _convolution(call: LayerCall, samples: slice, dtype: torch.dtype) -> Backward:
    layer: Any = call.layer
    weight = _parameter(call, "weight", dtype)
    outputs, inputs = call.output.shape[2:], call.inputs[0].shape[2:]
    missing = [
        size - ((length - 1) * stride - 2 * padding + dilation * (kernel - 1) + 1)
        for size, length, stride, padding, dilation, kernel in zip(
            inputs, outputs, layer.stride, layer.padding, layer.dilation, layer.kernel_size, strict=True
        )
    ]
    transposed = TRANSPOSED[len(inputs)]
    return _per_column(
        lambda columns: transposed(
            channels_last(columns), weight, None, layer.stride, layer.padding, missing, layer.groups, layer.dilation
        )
    )


def _transposed_convolution(call: LayerCall, samples: slice, dtype: torch.dtype) -> Backward:
    layer: Any = call.layer
    weight = _parameter(call, "weight", dtype)
    inputs = call.inputs[0].shape[2:]
    convolve, inside = CONVOLVE[len(inputs)], tuple(slice(size) for size in (None, None, *inputs))
    return _per_column(
        lambda columns: convolve(
            channels_last(columns), weight, None, layer.stride, layer.padding, layer.dilation, layer.groups
        )[inside]
    )


def _batch_norm(call: LayerCall, samples: slice, dtype: torch.dtype) -> Backward:
    layer: Any = call.layer
    scale = (layer.running_var.to(dtype) + layer.eps).rsqrt()
    if layer.weight is not None:
        scale = scale * layer.weight.detach().to(dtype)
    scale = scale.reshape(-1, *[1] * (call.output.dim() - 2))
    return lambda columns: (columns.mul_(scale),)


def _relu(call: LayerCall, samples: slice, dtype: torch.dtype) -> Backward:
    return _product(call.output[samples].sign().to(dtype))


def _elementwise(call: LayerCall, samples: slice, dtype: torch.dtype) -> Backward:
    """Return the product with the slopes, computed by autograd."""
    with torch.enable_grad():
        point = call.inputs[0][samples].detach().to(dtype).requires_grad_()
        return _product(torch.autograd.grad(_forward(call.layer, point).sum(), point)[0])


def _tanh(call: LayerCall, samples: slice, dtype: torch.dtype) -> Backward:
    return _product(1 - _output(call, samples, dtype).square())


def _sigmoid(call: LayerCall, samples: slice, dtype: torch.dtype) -> Backward:
    output = _output(call, samples, dtype)
    return _product(output * (1 - output))


def _dropout(call: LayerCall, samples: slice, dtype: torch.dtype) -> Backward:
    if not call.layer.training:
        return lambda columns: (columns,)
    return _product(dropout_mask(call, samples, dtype))


def _max_pooling(call: LayerCall, samples: slice, dtype: torch.dtype) -> Backward:
    layer: Any = call.layer
    values = call.inputs[0]
    shape, size = values.shape[1:], values[0, 0].numel()
    pool = POOL[values.dim() - 2]
    _, places = pool(
        channels_last(values[samples].to(dtype)),
        layer.kernel_size,
        layer.stride,
        layer.padding,
        layer.dilation,
        ceil_mode=layer.ceil_mode,
        return_indices=True,
    )
    places = places.flatten(2)[:, None]

    def backward(columns: Tensor) -> tuple[Tensor, ...]:
        result = columns.new_zeros(*columns.shape[:3], size)
        result.scatter_add_(3, places.expand(*columns.shape[:3], -1), columns.flatten(3))
        return (result.reshape(*columns.shape[:2], *shape),)

    return backward


def _linear_map(call: LayerCall, samples: slice, dtype: torch.dtype) -> Backward:
    """Return the transpose of a linear or affine layer without parameters, computed by autograd at zero."""
    shape = call.inputs[0].shape[1:]

    def function(columns: Tensor) -> Tensor:
        with torch.enable_grad():
            point = columns.new_zeros(len(columns), *shape).requires_grad_()
            return torch.autograd.grad(_forward(call.layer, point), point, columns)[0]

    return _per_column(function)


def _zero_padding(call: LayerCall, samples: slice, dtype: torch.dtype) -> Backward:
    """Return the part of the columns inside the margins; negative margins crop, and are left to autograd."""
    layer: Any = call.layer
    margins = layer.padding if isinstance(layer, nn.ZeroPad2d) else layer.pad
    if min(margins) < 0 or getattr(layer, "mode", "constant") != "constant" or len(margins) > 2 * call.output.dim() - 2:
        return _linear_map(call, samples, dtype)
    inside: list[slice] = []
    for before, after in zip(margins[::2], margins[1::2], strict=True):  # torch lists the last axis first
        inside.insert(0, slice(before, -after or None))
    every = [slice(None)] * (call.output.dim() + 1 - len(inside))
    return lambda columns: (columns[(*every, *inside)].contiguous(),)


def _slicing(call: LayerCall, samples: slice, dtype: torch.dtype) -> Backward:
    layer: Any = call.layer
    information = layer.slice_info if isinstance(layer.slice_info, tuple) else (layer.slice_info,)
    if information[0] is not Ellipsis and information[0] != slice(None):
        raise CurvatureError(f"Slicing with {information[0]!r} along the batch axis is not supported. Use slice(None).")
    return _linear_map(call, samples, dtype)


def _reshape(call: LayerCall, samples: slice, dtype: torch.dtype) -> Backward:
    shape = call.inputs[0].shape[1:]
    if call.output.shape[0] != call.inputs[0].shape[0]:
        raise CurvatureError(f"layer {call.layer} reshapes the batch axis. Keep the batch axis: Flatten(start_dim=1).")
    return lambda columns: (columns.reshape(*columns.shape[:2], *shape),)


def _scale(call: LayerCall, samples: slice, dtype: torch.dtype) -> Backward:
    layer: Any = call.layer
    return lambda columns: (columns.mul_(layer.weight),)


def _identity(call: LayerCall, samples: slice, dtype: torch.dtype) -> Backward:
    return lambda columns: (columns,)


def _sum(call: LayerCall, samples: slice, dtype: torch.dtype) -> Backward:
    return lambda columns: (columns, *(columns.clone() for _ in call.inputs[1:]))


def _nothing(call: LayerCall, samples: slice, dtype: torch.dtype) -> Backward:
    return lambda columns: ()


def _forward(layer: Module, point: Tensor) -> Tensor:
    result: Tensor = type(layer).forward(layer, point)
    return result


def _output(call: LayerCall, samples: slice, dtype: torch.dtype) -> Tensor:
    """Return a layer's output; if it was rounded to a smaller dtype, compute it again."""
    output = call.output[samples]
    return output if output.dtype == dtype else _forward(call.layer, call.inputs[0][samples].to(dtype))


def _parameter(call: LayerCall, name: str, dtype: torch.dtype) -> Tensor:
    parameter: Tensor = getattr(call.layer, name)
    return parameter.detach().to(dtype)


JACOBIANS: dict[type[Module], Callable[[LayerCall, slice, torch.dtype], Backward]] = {
    nn.Linear: _linear,
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _convolution),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), _transposed_convolution),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), _batch_norm),
    nn.Embedding: _nothing,
    nn.ReLU: _relu,
    nn.Sigmoid: _sigmoid,
    nn.Tanh: _tanh,
    **dict.fromkeys(
        (
            nn.CELU,
            nn.ELU,
            nn.GELU,
            nn.Hardsigmoid,
            nn.Hardswish,
            nn.Hardtanh,
            nn.LeakyReLU,
            nn.LogSigmoid,
            nn.Mish,
            nn.ReLU6,
            nn.SELU,
            nn.SiLU,
            nn.Softplus,
            nn.Softsign,
        ),
        _elementwise,
    ),
    **dict.fromkeys((nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d), _max_pooling),
    **dict.fromkeys(
        (
            nn.AvgPool1d,
            nn.AvgPool2d,
            nn.AvgPool3d,
            nn.AdaptiveAvgPool1d,
            nn.AdaptiveAvgPool2d,
            nn.AdaptiveAvgPool3d,
        ),
        _linear_map,
    ),
    nn.ZeroPad2d: _zero_padding,
    Pad: _zero_padding,
    nn.Dropout: _dropout,
    nn.Flatten: _reshape,
    nn.Identity: _identity,
    ScaleModule: _scale,
    Slicing: _slicing,
    SumModule: _sum,
}
"""The supported layers, each with its transposed Jacobian."""

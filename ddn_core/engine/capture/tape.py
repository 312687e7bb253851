"""The tape of a backward pass: the calls of the layers, in the order in which the pass reached them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import Dropout, Module, Parameter

Key = tuple[Any, ...]
"""Identity of a tensor between modules: address of its data, shape and strides."""


def key_of(tensor: Tensor) -> Key:
    """Return the key of a tensor, without its axes of length one, whose strides have no meaning."""
    axes = tuple(pair for pair in zip(tensor.shape, tensor.stride(), strict=True) if pair[0] != 1)
    return tensor.data_ptr(), axes


@dataclass(frozen=True, eq=False)
class LayerCall:
    """The call of a layer in the forward pass, and the gradients that reached the layer in the backward pass.

    Attributes:
        layer: Layer.
        inputs: Inputs of the layer, with samples along the first axis.
        output: Output of the layer.
        input_gradient: Gradient with respect to the input of dropout; `None` for other layers, or if the input needs no
            gradient.
        output_gradient: Gradient with respect to the output; `None` if it is not needed after the pass.
        input_keys: Keys of the inputs.
        output_key: Key of the output.
    """

    layer: Module
    inputs: tuple[Tensor, ...]
    output: Tensor
    input_gradient: Tensor | None
    output_gradient: Tensor | None
    input_keys: tuple[Key, ...]
    output_key: Key

    @classmethod
    def of(cls, layer: Any, input_gradient: Tensor | None, output_gradient: Tensor) -> LayerCall:
        """Return the call that BackPACK kept on the layer."""
        inputs = tuple(tensor.detach() for tensor in kept_inputs(layer))
        return cls(
            layer,
            inputs,
            layer.output.detach(),
            input_gradient if isinstance(layer, Dropout) else None,
            output_gradient.detach() if needs_output_gradient(layer) else None,
            tuple(key_of(tensor) for tensor in inputs),
            key_of(layer.output),
        )

    def select(self, samples: Sequence[int]) -> LayerCall:
        """Return the call for some samples."""
        chosen = list(samples)
        return replace(
            self,
            inputs=tuple(tensor[chosen] for tensor in self.inputs),
            output=self.output[chosen],
            input_gradient=None if self.input_gradient is None else self.input_gradient[chosen],
            output_gradient=None if self.output_gradient is None else self.output_gradient[chosen],
        )

    @property
    def sample_bytes(self) -> int:
        """Number of bytes of inputs, output and gradients for one sample."""
        held = (*self.inputs, self.output, self.input_gradient, self.output_gradient)
        return sum(tensor.nbytes // max(1, len(tensor)) for tensor in held if tensor is not None)

    @cached_property
    def parameters(self) -> dict[str, Parameter]:
        """The layer's own parameters with `requires_grad`, by name."""
        return {name: own for name, own in self.layer.named_parameters(recurse=False) if own.requires_grad}

    def names_among(self, parameters: Any) -> list[str]:
        """Return the names of the layer's own parameters whose `id`s are among the given ones."""
        return [name for name, parameter in self.parameters.items() if id(parameter) in parameters]


def needs_output_gradient(layer: Module) -> bool:
    """Return whether the gradient at a layer's output is needed after the pass: for its parameters or dropout mask."""
    return isinstance(layer, Dropout) or any(own.requires_grad for own in layer.parameters(recurse=False))


def kept_inputs(layer: Any) -> Iterator[Tensor]:
    """Yield the inputs that BackPACK kept on a layer."""
    position = 0
    while (kept := getattr(layer, f"input{position}", None)) is not None:
        yield kept
        position += 1


def keys_leading_to(calls: Sequence[LayerCall], parameters: Any) -> set[Key]:
    """Return the keys of the tensors through which columns reach wanted parameters.

    Args:
        calls: Calls in the order of the backward pass.
        parameters: `id`s of the wanted parameters.
    """
    leading: set[Key] = set()
    for call in reversed(calls):
        if call.names_among(parameters) or any(key in leading for key in call.input_keys):
            leading.add(call.output_key)
    return leading


def computing_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which the curvature of a model of the given dtype is computed: at least float32."""
    return torch.promote_types(dtype, torch.float32)

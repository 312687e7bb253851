"""The calls of a model's layers without data, from a forward pass on torch's meta device."""

from __future__ import annotations

from typing import Any

from backpack import disable as backpack_disabled
from torch import Tensor
from torch.nn import Dropout, Module

from ddn_core.engine.capture.jacobians import JACOBIANS
from ddn_core.engine.capture.layers import check_layer, unsupported_layer
from ddn_core.engine.capture.tape import LayerCall, needs_output_gradient


def traced_calls(model: Module, inputs: Tensor) -> tuple[list[LayerCall], Tensor]:
    """Return the calls in the order of a backward pass, and the model output.

    Tensors on the meta device have no address that could be their key. So each tensor between modules gets a number.

    Args:
        model: Model on the meta device.
        inputs: Inputs on the meta device.

    Raises:
        CurvatureError: A layer is not supported.
    """
    calls: list[LayerCall] = []
    numbers: dict[int, int] = {}
    kept: list[Tensor] = []  # keeps the tensors alive, so that no `id` is used twice

    def key(tensor: Tensor) -> tuple[Any, ...]:
        kept.append(tensor)
        return (numbers.setdefault(id(tensor), len(numbers)),)

    def note(module: Module, given: tuple[Any, ...], output: Any) -> None:
        if type(module) not in JACOBIANS:
            if next(module.children(), None) is None or next(module.parameters(recurse=False), None) is not None:
                raise unsupported_layer(module)
            return
        check_layer(module)
        tensors = tuple(tensor for tensor in given if isinstance(tensor, Tensor))
        before = tensors[0] if isinstance(module, Dropout) else None
        behind = output if needs_output_gradient(module) else None
        calls.append(LayerCall(module, tensors, output, before, behind, tuple(map(key, tensors)), key(output)))

    handles = [module.register_forward_hook(note) for module in model.modules()]
    try:
        with backpack_disabled():
            output = model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return calls[::-1], output

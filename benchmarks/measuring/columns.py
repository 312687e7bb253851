"""Backpropagation of the C columns of the loss-Hessian root by plain autograd.

To backpropagate several columns in one call, the batch is repeated once for each of them. The network is differentiated
with respect to the output of its first layer with parameters, so neither the parameters nor the network's input get
gradients. A smaller number of columns per call needs less memory, which can be faster, but more calls, which can be
slower.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measuring.clock import seconds_of
from benchmarks.measuring.layer_gram import LayerGram, layer_gram
from benchmarks.problems import Problem

_AT_A_TIME = (1, 2, 5, 10, 25)


def loss_hessian_root(outputs: Tensor) -> Tensor:
    """Return S with `S Sᵀ = (diag(p) - p pᵀ) / N` for each sample: the root of the mean cross-entropy's Hessian.

    Args:
        outputs: Model outputs, `[N, C]`.

    Returns:
        The columns of S, `[C, N, C]`, with the columns along the first axis.
    """
    p = outputs.detach().softmax(1)
    root = p.sqrt().diag_embed() - p[:, :, None] * p.sqrt()[:, None, :]  # [N, C, column]
    columns: Tensor = root.permute(2, 0, 1) / len(p) ** 0.5
    return columns


def fastest_backpropagation(problem: Problem) -> tuple[int, Callable[[], Any]]:
    """Return the fastest number of columns per call, and a function that backpropagates all columns with it.

    Args:
        problem: Problem, which must not be used elsewhere: its parameters are frozen.
    """
    model = problem.model.requires_grad_(False)
    root = loss_hessian_root(model(problem.inputs))
    classes = len(root)
    seconds: dict[int, float] = {}
    for count in {*_AT_A_TIME, classes}:
        if classes % count == 0:
            backpropagate = _backpropagation(problem, root, count)
            seconds[count] = min(seconds_of(backpropagate, root.device.type) for _ in range(3))
    fastest = min(seconds, key=seconds.__getitem__)
    return fastest, _backpropagation(problem, root, fastest)


def _backpropagation(problem: Problem, root: Tensor, count: int) -> Callable[[], Any]:
    """Return a function that backpropagates the columns of a root, `count` at a time."""
    first = _first_layer(problem.model)
    hidden = _repeated(problem.model[: first + 1](problem.inputs), count).requires_grad_()
    outputs = problem.model[first + 1 :](hidden)
    cotangents = [columns.flatten(0, 1) for columns in torch.split(root, count)]

    def backpropagate() -> Any:
        for columns in cotangents:
            torch.autograd.grad(outputs, hidden, columns, retain_graph=True)

    return backpropagate


def layers_with_columns(problem: Problem) -> list[LayerGram]:
    """Return each layer with its input and the vectors backpropagated to its output, from all columns in one call.

    Args:
        problem: Problem, which must not be used elsewhere: its parameters are frozen.
    """
    model, inputs = problem.model.requires_grad_(False), problem.inputs
    layers = [layer for layer in model.modules() if next(layer.parameters(recurse=False), None) is not None]
    layer_inputs: dict[nn.Module, Tensor] = {}
    layer_outputs: dict[nn.Module, Tensor] = {}

    def keep(layer: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        layer_inputs.setdefault(layer, arguments[0].detach())  # from the first pass, with N samples
        layer_outputs[layer] = output  # from the last pass, with C N samples

    hooks = [layer.register_forward_hook(keep) for layer in layers]
    root = loss_hessian_root(model(inputs))
    first = _first_layer(model)
    hidden = _repeated(model[: first + 1](inputs), len(root)).requires_grad_()
    outputs = model[first + 1 :](hidden)
    layer_outputs[layers[0]] = hidden
    for hook in hooks:
        hook.remove()
    propagated = torch.autograd.grad(outputs, [layer_outputs[layer] for layer in layers], root.flatten(0, 1))
    return [
        layer_gram(layer, layer_inputs[layer], vectors.reshape(len(root), len(inputs), *vectors.shape[1:]))
        for layer, vectors in zip(layers, propagated, strict=True)
    ]


def _first_layer(model: nn.Sequential) -> int:
    """Return the index of the first layer with parameters."""
    return next(index for index, layer in enumerate(model) if next(layer.parameters(), None) is not None)


def _repeated(outputs: Tensor, count: int) -> Tensor:
    return outputs.detach().repeat(count, *[1] * (outputs.dim() - 1))

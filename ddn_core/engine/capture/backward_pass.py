"""What is gathered during one backward pass, and how the pass is told from others."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.nn import Module, Parameter

from ddn_core.engine.capture.loss import LossCall
from ddn_core.engine.factors import Factor
from ddn_core.errors import CurvatureError, DdnError

Layout = tuple[list[int], list[int]]
GradientState = tuple[int, int, Tensor | None]

_HOOK_NOTICE = "Full backward hook is firing when gradients are computed with respect to module outputs"
"""A notice of torch, harmless and frequent: BackPACK's hook on a first layer whose input needs no gradient."""


@dataclass
class BackwardPass:
    """What is gathered during one backward pass; modules forget their inputs and outputs before it ends.

    Attributes:
        task: Number that autograd gave the pass.
        loss: The call of the loss module.
        scale: Constant that the loss was multiplied by.
        wanted: By `id` of a parameter that a factor is wanted of, its name and the parameter.
        gradients_before: By `id` of a parameter, the state of its gradient before the pass.
        output_gradient: Gradient of the loss module with respect to the model output, until it has been compared.
        unclaimed: By data pointer, the graph node of a module input whose root no module has taken up yet.
        layouts: By data pointer, shape and strides of the tensors that a root was propagated to.
        factors: By `id` of a parameter, its factor.
        columns_per_sample: C, or M with Monte-Carlo samples.
        error: The first thing that went wrong.
    """

    task: int
    loss: LossCall
    scale: float
    wanted: dict[int, tuple[str, Parameter]]
    gradients_before: dict[int, GradientState]
    output_gradient: Tensor | None = None
    unclaimed: dict[int, Node] = field(default_factory=dict)
    layouts: dict[int, Layout] = field(default_factory=dict)
    factors: dict[int, Factor] = field(default_factory=dict)
    columns_per_sample: int = 0
    error: DdnError | None = None


def running_task() -> int:
    """Return the number of the running backward pass."""
    return int(torch._C._current_graph_task_id())


def check_kept(module: Module) -> None:
    """Raise if BackPACK no longer has input and output of a module.

    Raises:
        CurvatureError: The module was used twice in the forward pass, or the graph twice.
    """
    if not hasattr(module, "output") or not hasattr(module, "input0"):
        raise CurvatureError(
            f"input and output of module {type(module).__name__} are gone: it was used more than once in the forward "
            "pass (make one instance for each use), or backward was called twice on one graph (run forward again)."
        )


def check_only_loss(current: BackwardPass, module: Module, gradient: Tensor) -> None:
    """Raise if the model output, of the first layer that a pass reaches, has a gradient from elsewhere than the loss.

    Raises:
        CurvatureError: A term beside the loss depends on the output: its curvature would be missing.
    """
    expected, current.output_gradient = current.output_gradient, None  # only the layer before the loss is compared
    if expected is not None:
        difference = (gradient - expected).abs().max()
        if bool(difference > 1e-4 * expected.abs().max()):
            raise CurvatureError(
                f"the gradient at the model output, of layer {type(module).__name__}, is not that of the loss module "
                f"{current.loss.name}: something beside it depends on the output, and its curvature would be missing. "
                "Call backward on the result of the loss module, or a constant times it."
            )


def layout(tensor: Tensor) -> Layout:
    """Return shape and strides, without the axes of length one, whose strides mean nothing."""
    axes = [(size, stride) for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if size != 1]
    return [size for size, _ in axes], [stride for _, stride in axes]


def gradient_state(parameter: Tensor) -> GradientState:
    """Return what changes when a gradient is accumulated into the parameter, and a copy of the gradient."""
    gradient = parameter.grad
    return (0, 0, None) if gradient is None else (id(gradient), gradient._version, gradient.clone())


def ignore_hook_notice() -> None:
    """Keep torch's notice about BackPACK's hooks from the user, until `heed_hook_notice`."""
    warnings.filterwarnings("ignore", message=_HOOK_NOTICE)


def heed_hook_notice() -> None:
    """Undo `ignore_hook_notice`."""
    for entry in list(warnings.filters):
        if getattr(entry[1], "pattern", None) == _HOOK_NOTICE:
            warnings.filters.remove(entry)  # type: ignore[attr-defined]

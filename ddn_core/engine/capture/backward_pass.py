"""What is gathered during one backward pass, and how the pass is told from others."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.nn import Module, Parameter

from ddn_core.engine.capture.loss import LossCall
from ddn_core.engine.capture.tape import Key, LayerCall
from ddn_core.errors import CurvatureError, DdnError

GradientState = tuple[int, int, Tensor | None]

_HOOK_NOTICE = "Full backward hook is firing when gradients are computed with respect to module outputs"
"""A notice of torch, harmless and frequent: BackPACK's hook on a first layer whose input needs no gradient."""


@dataclass(frozen=True)
class WantedParameter:
    """A parameter that factors are wanted of.

    Attributes:
        name: Name, for messages.
        parameter: The parameter.
        group: Number of its group: weight and bias of a layer make one factor if they are in one group.
    """

    name: str
    parameter: Parameter
    group: int


@dataclass
class BackwardPass:
    """What is gathered during one backward pass; modules forget their inputs and outputs before it ends.

    Attributes:
        task: Number that autograd gave the pass.
        loss: The call of the loss module.
        scale: Constant that the loss was multiplied by.
        wanted: By `id`, the parameters that factors are wanted of.
        gradients_before: By `id` of a parameter, the state of its gradient before the pass.
        output_gradient: Gradient of the loss module with respect to the model output.
        calls: Calls of the layers so far, in the order of the backward pass.
        expected: Keys of the tensors that columns will be propagated to.
        unclaimed: By key, the graph node of a module input that no module has been seen to give yet.
        reached: `id`s of the wanted parameters that a visited module holds.
        error: The first thing that went wrong.
    """

    task: int
    loss: LossCall
    scale: float
    wanted: dict[int, WantedParameter]
    gradients_before: dict[int, GradientState]
    output_gradient: Tensor | None = None
    calls: list[LayerCall] = field(default_factory=list)
    expected: set[Key] = field(default_factory=set)
    unclaimed: dict[Key, Node] = field(default_factory=dict)
    reached: set[int] = field(default_factory=set)
    error: DdnError | None = None


def running_task() -> int:
    """Return the number of the running backward pass."""
    return int(torch._C._current_graph_task_id())


def check_inputs_kept(module: Module) -> None:
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
    expected = current.output_gradient
    if expected is not None and not current.calls:  # only the layer before the loss is compared
        difference = (gradient - expected).abs().max()
        if bool(difference > 1e-4 * expected.abs().max()):
            raise CurvatureError(
                f"the gradient at the model output, of layer {type(module).__name__}, is not that of the loss module "
                f"{current.loss.name}: something beside it depends on the output, and its curvature would be missing. "
                "Call backward on the result of the loss module, or a constant times it."
            )


def gradient_state(parameter: Tensor) -> GradientState:
    """Return what changes when a gradient is accumulated into the parameter, and a copy of the gradient."""
    gradient = parameter.grad
    return (0, 0, None) if gradient is None else (id(gradient), gradient._version, gradient.clone())


def hide_hook_notice() -> None:
    """Keep torch's notice about BackPACK's hooks from the user, until `show_hook_notice`."""
    warnings.filterwarnings("ignore", message=_HOOK_NOTICE)


def show_hook_notice() -> None:
    """Undo `hide_hook_notice`."""
    for entry in list(warnings.filters):
        if getattr(entry[1], "pattern", None) == _HOOK_NOTICE:
            warnings.filters.remove(entry)  # type: ignore[attr-defined]

"""Record of one backward pass, with the identity that keeps passes apart."""

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
"""Torch's warning about BackPACK's hook on a first layer whose input needs no gradient: frequent and harmless."""


@dataclass(frozen=True)
class WantedParameter:
    """A parameter whose factor is captured.

    Attributes:
        name: Name of the parameter in messages.
        parameter: The parameter.
        group: Number of its group. Weight and bias of a layer share a factor if they are in the same group.
    """

    name: str
    parameter: Parameter
    group: int


@dataclass
class BackwardPass:
    """Record of one backward pass, kept because modules drop their inputs and outputs before the pass ends.

    Attributes:
        task: Autograd's number of the pass.
        loss: Call of the loss module.
        scale: Constant by which the loss was multiplied.
        wanted: Parameters whose factors are captured, by `id`.
        gradients_before: State of each parameter's gradient before the pass, by `id` of the parameter.
        output_gradient: Gradient of the loss module with respect to the model output.
        calls: Calls of the layers so far, in the order of the backward pass.
        expected: Keys of the tensors that columns will be propagated to.
        unclaimed: Graph nodes of the module inputs that no recorded module has returned yet, by key.
        reached: `id`s of the wanted parameters that a recorded module holds.
        error: First error of the pass.
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
    """Check that BackPACK still has the input and output of a module.

    Raises:
        CurvatureError: The module was called twice in the forward pass, or backward was called twice on one graph.
    """
    if not hasattr(module, "output") or not hasattr(module, "input0"):
        raise CurvatureError(
            f"input and output of module {type(module).__name__} are gone. Either it was called more than once in the "
            "forward pass: make one instance for each call. Or backward was called twice on one graph: run the forward "
            "pass again."
        )


def check_only_loss(current: BackwardPass, module: Module, gradient: Tensor) -> None:
    """Check that the gradient at the model output comes from the loss module alone.

    Only the first layer that a pass reaches, whose output is the model output, is compared.

    Raises:
        CurvatureError: A term in addition to the loss depends on the output; its curvature would be missing.
    """
    expected = current.output_gradient
    if expected is not None and not current.calls:  # the first layer of the pass is the one before the loss
        difference = (gradient - expected).abs().max()
        if bool(difference > 1e-4 * expected.abs().max()):
            raise CurvatureError(
                f"the gradient at the model output, of layer {type(module).__name__}, is not that of the loss module "
                f"{current.loss.name}: something else depends on the output, too, and its curvature would be missing. "
                "Call backward on the result of the loss module, or on a constant times that result."
            )


def gradient_state(parameter: Tensor) -> GradientState:
    """Return identity and version of a parameter's gradient, which accumulation changes, and a copy of the gradient."""
    gradient = parameter.grad
    return (0, 0, None) if gradient is None else (id(gradient), gradient._version, gradient.clone())


def hide_hook_notice() -> None:
    """Hide torch's warning about BackPACK's hooks from the user, until `show_hook_notice` is called."""
    warnings.filterwarnings("ignore", message=_HOOK_NOTICE)


def show_hook_notice() -> None:
    """Undo `hide_hook_notice`."""
    for entry in list(warnings.filters):
        if getattr(entry[1], "pattern", None) == _HOOK_NOTICE:
            warnings.filters.remove(entry)  # type: ignore[attr-defined]

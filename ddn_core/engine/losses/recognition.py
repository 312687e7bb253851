"""The loss function in the graph of a loss, and all that lies between the loss and this function.

Between the loss and the loss function may be operations that are linear in it: a mean or a sum, constant weights, a
constant factor, a selection. Their derivative is the weight of each element of the loss function. Anything else is an
error: the GGN of a function of the loss function, or of a term beside it, would be another matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

from ddn_core.engine.losses.bernoulli import BinaryCrossEntropy
from ddn_core.engine.losses.cross_entropy import CrossEntropy
from ddn_core.engine.losses.squares import SquaredError
from ddn_core.engine.losses.term import LossTerm
from ddn_core.engine.nodes import kind_of, signed
from ddn_core.errors import CurvatureError

FAMILIES: dict[str, type[LossTerm]] = {
    kind: family for family in (SquaredError, CrossEntropy, BinaryCrossEntropy) for kind in family.kinds
}
"""Families of losses by the kind of their graph node."""

_LINEAR = {
    *("NllLoss", "NllLoss2D", "Sum", "Mean", "Neg", "View", "UnsafeView", "ReshapeAlias", "Clone", "Alias", "ToCopy"),
    *("T", "Transpose", "Permute", "Squeeze", "Unsqueeze", "Expand", "Select", "Slice", "Index", "Gather", "Stack"),
    *("Add", "Sub", "Rsub", "Mul", "Div", "MaskedSelect", "MaskedFill", "Where", "Cat", "Dot", "Mv", "Mm", "Nansum"),
    *("IndexSelect", "ToCopy", "AsStrided", "Flip", "Narrow", "BackwardHookFunction", "Checkpoint", "Identity"),
}
"""Kinds of nodes that are linear in each input, if the others are constant."""
_PRODUCTS = {"Mul", "Dot", "Mv", "Mm"}


@dataclass(frozen=True, eq=False)
class RecognizedLoss:
    """The loss function in the graph of a loss.

    Attributes:
        term: The loss function, with its weights.
        output: Edge of the model output.
        reduction: Whether the loss is a mean over samples or a sum, which decides how per-sample derivatives are given.
    """

    term: LossTerm
    output: GradientEdge
    reduction: Literal["mean", "sum"]


def checked_top(loss: Any) -> Node:
    """Return the graph node of a loss.

    Raises:
        CurvatureError: The loss is not a scalar, or has no graph.
    """
    if not isinstance(loss, Tensor):
        raise CurvatureError(f"the loss is a {type(loss).__name__}. Pass the tensor that the loss function returned.")
    if loss.numel() != 1:
        raise CurvatureError(
            f"the loss has the shape {list(loss.shape)}. Reduce it to one number, by its mean or its sum."
        )
    if loss.grad_fn is None:
        raise CurvatureError(
            "the loss has no graph. Compute it from the model's output with gradients enabled, outside of "
            "torch.no_grad() and without detach()."
        )
    return loss.grad_fn


def recognize(loss: Tensor, leads: Callable[[Node], bool], scale: float | Tensor = 1.0) -> RecognizedLoss:
    """Find the loss function in the graph of a loss.

    Args:
        loss: Loss, a scalar with a graph.
        leads: Returns whether a wanted parameter lies below a node.
        scale: Constant by which the loss is multiplied in addition.

    Raises:
        CurvatureError: There is no known loss function, or there are several; or something other than a linear
            function of it leads to wanted parameters.
    """
    top = loss.grad_fn
    assert top is not None
    found, kinds = _between(top, leads)
    if len(found) > 1:
        raise CurvatureError(
            f"the loss has {len(found)} loss functions ({', '.join(sorted(map(kind_of, found)))}). Call backward on a "
            "loss with one of them, or add up the curvature of several passes."
        )
    node = found[0]
    if isinstance(scale, Tensor):
        seed = scale.to(loss).expand_as(loss)
    else:
        seed = torch.full_like(loss, scale, requires_grad=False)
    weight = seed if node is top else torch.autograd.grad([loss], [GradientEdge(node, 0)], [seed], retain_graph=True)[0]
    inputs = [(other, output) for other, output in node.next_functions if other is not None and leads(other)]
    if len(inputs) > 1:
        raise CurvatureError(
            f"both inputs of {_name(node)} depend on the parameters. Detach the one that is the target."
        )
    below, number = inputs[0]
    family = FAMILIES[kind_of(node)]
    place = next(place for place, (other, _) in enumerate(node.next_functions) if other is below)
    if place not in family.inputs:
        raise CurvatureError(
            f"the parameters take part in the target of {_name(node)}, not in its first argument. Exchange the two."
        )
    term = family(node, weight, place)
    is_mean = term.reduction == 1 or any(map(_averages, kinds))
    return RecognizedLoss(term, GradientEdge(below, number), "mean" if is_mean else "sum")


def _between(top: Node, leads: Callable[[Node], bool]) -> tuple[list[Any], dict[Node, str]]:
    """Return the nodes of loss functions, and the kinds of the linear nodes above them."""
    found: dict[Node, None] = {}
    kinds: dict[Node, str] = {}
    stack = [top]
    while stack:
        node = stack.pop()
        if node in kinds or node in found:
            continue
        kind = kind_of(node)
        if kind in FAMILIES:
            found[node] = None
            continue
        below = [
            (number, other)
            for number, (other, _) in enumerate(node.next_functions)
            if other is not None and leads(other)
        ]
        if not _is_linear(kind, [number for number, _ in below]):
            raise _unknown(node, top, leads)
        kinds[node] = kind
        stack += [other for _, other in below]
    return list(found), kinds


def _is_linear(kind: str, inputs: list[int]) -> bool:
    """Return whether a node of a kind is linear in the inputs with the given numbers together."""
    if kind not in _LINEAR or not inputs:
        return False
    if kind == "Div":
        return inputs == [0]
    return kind not in _PRODUCTS or len(inputs) == 1


def _averages(node: Any) -> bool:
    """Return whether a node takes a mean over samples, or divides by a number."""
    kind = kind_of(node)
    if kind in ("NllLoss", "NllLoss2D"):
        return bool(node._saved_reduction == 1)
    if kind == "Mean" and hasattr(node, "_saved_dim"):
        axes = len(node._saved_self_sym_sizes)
        return not node._saved_dim or any(signed(axis) in (0, -axes) for axis in node._saved_dim)
    return kind in ("Mean", "Div")


def _unknown(node: Node, top: Node, leads: Callable[[Node], bool]) -> CurvatureError:
    """Return the error for a node that is neither a loss function nor linear."""
    if _reaches_loss(node, leads):
        return CurvatureError(
            f"the loss is a function ({_name(node)}) of a loss function, and its curvature is not that of the loss "
            "function. Call backward on the loss function itself, or on a constant times it."
        )
    if _reaches_loss(top, leads):
        return CurvatureError(
            f"the loss has a term, which ends in {_name(node)}, that does not go through the loss function: its "
            "curvature would be missing. Leave the term out; for an L2 penalty on parameters, use `weight_decay`."
        )
    known = "mean squared error, cross-entropy and binary cross-entropy with logits"
    return CurvatureError(
        f"no loss function was recognized: the graph of the loss begins with {_name(node)}. Use {known}, as a module "
        "or as a function of torch.nn.functional."
    )


def _reaches_loss(node: Node, leads: Callable[[Node], bool]) -> bool:
    stack, seen = [node], set()
    while stack:
        current = stack.pop()
        if current in seen:
            continue
        seen.add(current)
        if kind_of(current) in FAMILIES:
            return True
        stack += [other for other, _ in current.next_functions if other is not None and leads(other)]
    return False


def _name(node: Node) -> str:
    """Return the name of the operation that made a node, in messages."""
    return node.name()

"""Whether a backward pass captured all there is: checks at its end that make silent errors loud."""

from __future__ import annotations

import torch

from ddn_core.engine.capture.backward_pass import BackwardPass, gradient_state
from ddn_core.errors import CurvatureError


def check_complete(current: BackwardPass, all_samples: bool) -> None:
    """Raise unless the factors account for all of the loss's dependence on the wanted parameters.

    Args:
        current: The pass, after all gradients.
        all_samples: Whether the per-sample gradients are those of all samples, so that they add up to the gradient.

    Raises:
        CurvatureError: A parameter got a gradient but no factor, a branch was lost, or gradients do not add up.
    """
    _check_nothing_missed(current)
    _check_no_branch_lost(current)
    if all_samples:
        _check_gradients_add_up(current)


def _check_nothing_missed(current: BackwardPass) -> None:
    """Raise if a wanted parameter got a gradient but no factor."""
    missed = [
        name
        for key, (name, parameter) in current.wanted.items()
        if key not in current.factors and current.gradients_before[key][:2] != gradient_state(parameter)[:2]
    ]
    if missed:
        raise CurvatureError(
            f"got a gradient but no curvature for {', '.join(missed)}: no extended module holds them. Extend the "
            "model before the forward pass, model = backpack.extend(model)."
        )


def _check_no_branch_lost(current: BackwardPass) -> None:
    """Raise if a root was propagated to a tensor that no module gave, and wanted parameters lie behind it."""
    nodes, seen = list(current.unclaimed.values()), set()
    while nodes:
        node = nodes.pop()
        if node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None and id(variable) in current.factors:
            raise CurvatureError(
                f"a branch that {current.wanted[id(variable)][0]} takes part in has an operation that is no module, so "
                "that its curvature is lost. Use modules for all operations, nn.ReLU() rather than torch.relu, or try "
                "`backpack.extend(model, use_converter=True)`."
            )
        nodes += [following for following, _ in node.next_functions if following is not None]


def _check_gradients_add_up(current: BackwardPass) -> None:
    """Raise if the per-sample gradients of a parameter do not add up to what autograd accumulated."""
    mean = current.loss.reduction == "mean"
    for key, factor in current.factors.items():
        name, parameter = current.wanted[key]
        accumulated, before = parameter.grad, current.gradients_before[key][2]
        if accumulated is None or accumulated.is_sparse:
            continue
        share = 1 / current.loss.samples if mean else 1.0
        expected = factor.gradient.combine(accumulated.new_full((factor.gradient.count, 1), share))[0]
        difference = accumulated - expected - (0 if before is None else before)
        scale = share * factor.gradient.norm_bound() + (0 if before is None else before.norm())
        if bool(difference.norm() > torch.finfo(difference.dtype).eps ** 0.5 * scale):
            raise CurvatureError(
                f"the per-sample gradients of {name} do not add up to its gradient. Either something beside the loss "
                "depends on it (a penalty that is added to the loss, a hook on it), or its layer computes something "
                "else than its kind says (pruning, spectral normalization, a hook), or forward was called again before "
                "backward. Its curvature would be wrong."
            )

"""Checks at the end of a backward pass that the capture has all curvature, so that no error stays silent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ddn_core.engine.capture.backward_pass import BackwardPass, gradient_state
from ddn_core.engine.capture.factor_specs import FactorSpec
from ddn_core.errors import CurvatureError

Comparison = tuple[FactorSpec, Tensor, Tensor]
"""A factor, the deviation of its per-sample gradients' sum from the gradient, and the largest allowed deviation."""


def check_nothing_missed(current: BackwardPass) -> None:
    """Check that every wanted parameter with a new gradient belongs to a recorded module.

    Raises:
        CurvatureError: A parameter received a gradient but no curvature.
    """
    missed = [
        wanted.name
        for key, wanted in current.wanted.items()
        if key not in current.reached and current.gradients_before[key][:2] != gradient_state(wanted.parameter)[:2]
    ]
    if missed:
        raise CurvatureError(
            f"the backward pass gave a gradient but no curvature for {', '.join(missed)}: no extended module holds "
            "them. Extend the model before the forward pass, model = backpack.extend(model). Extend a model that "
            "torch.compile has compiled before its first call: a graph that is already compiled does not call the "
            "extension."
        )


def check_no_branch_lost(current: BackwardPass) -> None:
    """Check that no wanted parameter lies behind a tensor that no recorded module returned.

    Raises:
        CurvatureError: A branch of the model has an operation that is no module.
    """
    nodes, seen = list(current.unclaimed.values()), set()
    while nodes:
        node = nodes.pop()
        if node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None and id(variable) in current.reached:
            raise CurvatureError(
                f"a branch that {current.wanted[id(variable)].name} takes part in has an operation that is no module, "
                "so the curvature of the branch is lost. Use a module for each operation, nn.ReLU() rather than "
                "torch.relu, or try `backpack.extend(model, use_converter=True)`."
            )
        nodes += [following for following, _ in node.next_functions if following is not None]


def gradient_of_pass(current: BackwardPass, parameter: Tensor) -> Tensor | None:
    """Return the change of a parameter's gradient in the pass; `None` if there is no dense gradient."""
    accumulated, before = parameter.grad, current.gradients_before[id(parameter)][2]
    if accumulated is None or accumulated.is_sparse:
        return None
    return accumulated if before is None else accumulated - before


def check_gradients_add_up(current: BackwardPass, specs: Iterable[FactorSpec], dtype: torch.dtype) -> None:
    """Check that the per-sample gradients of each parameter add up to the change of its gradient in the pass.

    Args:
        current: The pass, after all gradients are written.
        specs: Specifications of the factors.
        dtype: Dtype that curvature is computed in.

    Raises:
        CurvatureError: The gradients of a parameter do not add up.
    """
    shared: dict[int, list[FactorSpec]] = {}
    compared: list[Comparison] = []
    for spec in specs:
        if spec.must_form:
            shared.setdefault(id(spec.parameters[0]), []).append(spec)
            continue
        gradients = [gradient_of_pass(current, parameter) for parameter in spec.parameters]
        known = [gradient for gradient in gradients if gradient is not None]
        if len(known) == len(gradients):
            total = tuple(gradient.to(dtype)[None] for gradient in known)
            deviation, scale = spec.per_sample_gradients(dtype).check_sum(total)
            compared.append(_comparison(current, spec, deviation, scale, known))
    for same in shared.values():
        gradient = gradient_of_pass(current, same[0].parameters[0])
        if gradient is not None:
            sums = [_gradient_sum(spec, dtype) for spec in same]
            deviation = (gradient.to(dtype) - torch.stack(sums).sum(0)).norm()
            scale = torch.stack(sums).norm() * len(sums) * current.loss.samples
            compared.append(_comparison(current, same[0], deviation, scale, [gradient]))
    _raise_for_deviations(current, compared)


def _gradient_sum(spec: FactorSpec, dtype: torch.dtype) -> Tensor:
    """Return the sum of the per-sample gradients of a factor's one parameter, from one of the layers that hold it."""
    gradient = spec.per_sample_gradients(dtype)
    ones = torch.ones(gradient.count, 1, dtype=dtype, device=spec.call.output.device)
    return gradient.combine(ones)[0][0]


def _comparison(
    current: BackwardPass, spec: FactorSpec, deviation: Tensor, scale: Tensor, gradients: Sequence[Tensor]
) -> Comparison:
    """Return a factor with its deviation, and the largest allowed deviation."""
    precision = max(torch.finfo(tensor.dtype).eps for tensor in (*gradients, spec.call.output))
    for parameter in spec.parameters:
        before = current.gradients_before[id(parameter)][2]
        scale = scale if before is None else scale + before.norm()
    return spec, deviation, precision**0.5 * scale


def _raise_for_deviations(current: BackwardPass, compared: Sequence[Comparison]) -> None:
    """Raise if a deviation is too large; one comparison for all of them waits for the device only once."""
    if not compared:
        return
    specs, deviations, bounds = zip(*compared, strict=True)
    wrong = torch.stack(deviations) > torch.stack(bounds)
    if bool(wrong.any()):
        spec = specs[wrong.tolist().index(True)]
        names = " and ".join(current.wanted[id(parameter)].name for parameter in spec.parameters)
        raise CurvatureError(
            f"the per-sample gradients of {names} do not add up to its gradient, so that its curvature would be wrong. "
            "Either something other than the loss depends on the parameter (a penalty that is added to the loss, a "
            "hook), or its layer does not compute what its class does (pruning, spectral normalization, a hook), or "
            "forward was called again before backward. Remove the cause."
        )

"""Checks on the tensors that a strategy returns, and on the state that it saves."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from ddn_core.engine import Directions
from ddn_core.errors import StrategyError
from ddn_core.plugins.messages import value_text


def checked_indices(label: Callable[[], str], returned: Any, count: int, device: torch.device) -> Tensor:
    """Return the checked selection of a criterion as int64 `[K]`.

    Args:
        label: Returns the name of the criterion, for messages.
        returned: Value that the criterion returned.
        count: Number of directions to choose from.
        device: Device of the directions.

    Raises:
        StrategyError: The value is not a list of distinct indices below `count`.
    """

    def fault(complaint: str) -> StrategyError:
        return StrategyError(f"{label()}: `select` returned {complaint}.")

    try:
        indices = torch.as_tensor(returned, device=device)
    except Exception as error:  # of a sequence of the plugin's own, too
        raise fault(f"{value_text(returned)}, which is not a list of indices; return integers, [K]") from error
    if indices.numel() == 0:
        return torch.zeros(0, dtype=torch.long, device=device)
    if indices.dim() != 1:
        raise fault(f"indices of shape {list(indices.shape)}; expected one axis, [K]")
    if indices.dtype == torch.bool or indices.is_floating_point() or indices.is_complex():
        raise fault(f"indices of dtype {indices.dtype}; expected integers (of a mask, mask.nonzero()[:, 0])")
    numbers = indices.tolist()
    lowest, highest = min(numbers), max(numbers)
    if lowest < 0 or highest >= count:
        raise fault(f"index {lowest if lowest < 0 else highest}; there are {count} directions, counted from 0")
    if len(set(numbers)) != len(numbers):
        raise fault("an index more than once; return each index once")
    return indices.long().clone() if isinstance(returned, Tensor) else indices.long()  # a plugin may keep its tensor


def checked_dampings(label: Callable[[], str], returned: Any, directions: Directions) -> Tensor:
    """Return the checked dampings `[K]` of a damping.

    Args:
        label: Returns the name of the damping, for messages.
        returned: Value that the damping returned.
        directions: Directions that the damping was called with.

    Raises:
        StrategyError: The value has the wrong type, shape, dtype or device, contains a NaN, or makes λ̄ + δ ≤ 0.
    """

    def fault(complaint: str) -> StrategyError:
        return StrategyError(f"{label()}: `damp` returned {complaint}.")

    evals = directions.evals
    if not isinstance(returned, Tensor):
        raise fault(f"a {type(returned).__name__}; expected a tensor of shape [{len(directions)}]")
    if returned.shape != evals.shape:
        raise fault(f"dampings of shape {list(returned.shape)}; expected [{len(directions)}], one for each direction")
    if returned.dtype != evals.dtype or returned.device != evals.device:
        raise fault(
            f"dampings of {returned.dtype} on {returned.device}; expected {evals.dtype} on {evals.device}, as of evals"
        )
    curvatures = directions.loss_lambdas + returned
    has_nan, is_indefinite = torch.stack([returned.isnan().any(), (curvatures <= 0).any()]).tolist()
    if has_nan:
        raise fault(f"NaN for direction {int(returned.isnan().nonzero()[0])}; use +inf to keep a direction still")
    if is_indefinite:
        worst = int(curvatures.argmin())
        raise fault(
            f"{float(returned[worst]):g} for direction {worst}, whose curvature is "
            f"{float(directions.loss_lambdas[worst]):g}; their sum must be positive"
        )
    with torch.no_grad():
        return returned.clone()  # the plugin may keep its tensor, and change it later


PLAIN = (
    *(bool, int, float, complex, str, bytes, bytearray, type(None)),
    *(Tensor, Parameter, torch.Size, torch.dtype, torch.device, torch.layout),
)
"""Types of values that `torch.load(..., weights_only=True)` reads, beside lists, tuples, sets and tables of them."""


def check_is_plain(label: Callable[[], str], state: Any) -> None:
    """Raise a `StrategyError` unless `torch.load(..., weights_only=True)` can read a saved state.

    Args:
        label: Returns the name of the strategy, for messages.
        state: Value that `state_dict` of the strategy returned.
    """
    places, seen = [("", state)], set()
    while places:
        path, value = places.pop()
        kind = type(value)
        if kind in PLAIN or id(value) in seen:
            continue
        seen.add(id(value))  # a value may contain itself
        if kind in (dict, OrderedDict, Counter):
            places += [(path, key) for key in value]
            places += [(f"{path}.{key}" if type(key) in (str, int) else path, item) for key, item in value.items()]
        elif kind in (list, tuple, set):
            places += [(path, item) for item in value]
        else:
            place = path.removeprefix(".own").removeprefix(".")
            raise StrategyError(
                f"{label()}: its state has a value of type {kind.__module__}.{kind.__qualname__}"
                f"{f' in {place!r}' if place else ''}, which no checkpoint can be read with. Keep numbers (`float(x)` "
                "of a NumPy number), texts, tensors, and lists or tables of them."
            )

"""What a strategy may return: checked where it comes back, before anything is done with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ddn_core.engine import Directions
from ddn_core.errors import StrategyError


def checked_indices(label: Callable[[], str], returned: Any, count: int, device: torch.device) -> Tensor:
    """Return what a criterion returned as int64 `[K]`.

    Args:
        label: Gives the name of the criterion, for messages.
        returned: What it returned.
        count: Number of directions that there are to choose from.
        device: Device of the directions.

    Raises:
        StrategyError: It does not choose from `count` directions.
    """

    def fault(complaint: str) -> StrategyError:
        return StrategyError(f"{label()}: `select` returned {complaint}.")

    try:
        indices = torch.as_tensor(returned, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise fault(f"{returned!r}, which is no list of indices") from error
    if indices.numel() == 0:
        return torch.zeros(0, dtype=torch.long, device=device)
    if indices.dim() != 1:
        raise fault(f"indices of shape {list(indices.shape)}; expected one axis, [K]")
    if indices.dtype == torch.bool or indices.is_floating_point() or indices.is_complex():
        raise fault(f"indices of dtype {indices.dtype}; expected integers (of a mask, mask.nonzero()[:, 0])")
    lowest, highest = int(indices.min()), int(indices.max())
    if lowest < 0 or highest >= count:
        raise fault(f"index {lowest if lowest < 0 else highest}; there are {count} directions")
    if len(set(indices.tolist())) != len(indices):
        raise fault("an index more than once")
    return indices.long()


def checked_dampings(label: Callable[[], str], returned: Any, directions: Directions) -> Tensor:
    """Return the dampings `[K]` that a damping returned.

    Args:
        label: Gives the name of the damping, for messages.
        returned: What it returned.
        directions: What it was given.

    Raises:
        StrategyError: It is something of another shape, dtype or device, has a NaN, or leaves λ̄ + δ not positive.
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
    if bool(returned.isnan().any()):
        raise fault(f"NaN for direction {int(returned.isnan().nonzero()[0])}")
    curvatures = directions.loss_lambdas + returned
    if bool((curvatures <= 0).any()):
        worst = int(curvatures.argmin())
        raise fault(
            f"{float(returned[worst]):g} for direction {worst}, whose curvature is "
            f"{float(directions.loss_lambdas[worst]):g}; their sum must be positive"
        )
    return returned.detach()

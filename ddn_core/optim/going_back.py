"""Going back to the parameters before the last step, where the loss or the next step is not finite."""

from __future__ import annotations

import math
from collections.abc import MutableMapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ddn_core.optim.outcomes import notify
from ddn_core.optim.parameters import is_fallback
from ddn_core.optim.planning import drop
from ddn_core.optim.state import Progress


@torch.no_grad()
def remember(groups: Sequence[dict[str, Any]], progress: Progress) -> list[list[Tensor]]:
    """Keep a copy of all parameters, to which a later step may go back, and return it, one list for each group."""
    before = progress.before
    for index, group in enumerate(groups):
        if index not in before:
            before[index] = [torch.empty_like(own) for own in group["params"]]
        torch._foreach_copy_(before[index], group["params"])
    return [before[index] for index in range(len(groups))]


@torch.no_grad()
def go_back(groups: Sequence[dict[str, Any]], state: MutableMapping[Tensor, Any], progress: Progress) -> None:
    """Go back to the parameters before the last step, drop what is kept of steps, and notify the strategies.

    The copy is used up: the optimizer cannot go back a second time before it has made another step.

    Args:
        groups: The parameter groups.
        state: The optimizer's state by parameter.
        progress: Values that change from step to step.
    """
    before, progress.before, progress.held = progress.before, {}, {}
    for index, values in before.items():
        group = groups[index]
        torch._foreach_copy_(group["params"], values)
        drop(group["params"], state)
        if is_fallback(group):
            for parameter in group["params"]:
                state.pop(parameter, None)
    progress.outcomes = {
        index: replace(outcome, taken=0.0, loss_after=math.nan) for index, outcome in progress.outcomes.items()
    }
    notify(groups, progress.outcomes, {})

"""Parameters that no group takes: an optimizer of torch moves them, in a group of ours."""

from __future__ import annotations

import copy
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import LBFGS, SGD, Adam, AdamW, Optimizer

from ddn_core.config import Baseline
from ddn_core.errors import CurvatureError, DdnError
from ddn_core.optim.planning import checked_targets

KINDS: Mapping[str, Any] = {"sgd": SGD, "adam": Adam, "adamw": AdamW, "lbfgs": LBFGS}
KEY = "fallback"
"""The key of a parameter group that has the kind of the optimizer that moves it."""


def torch_optimizer(config: Baseline, params: Any) -> Optimizer:
    """Return torch's optimizer that a config names."""
    made: Optimizer = KINDS[config.kind](params, **config.options())
    return made


def fallback_group(config: Baseline, params: Sequence[tuple[str, Tensor]]) -> dict[str, Any]:
    """Return a parameter group with all that torch's optimizer wants to find in it."""
    whole = torch_optimizer(config, [parameter for _, parameter in params]).param_groups[0]
    return {**whole, "params": list(params), KEY: config.kind}


class FallbackPlan:
    """The step of a group that an optimizer of torch moves, made and taken back: only its targets are kept.

    The state of torch's optimizer is that after the step, until the plan is abandoned.
    """

    def __init__(self, group: dict[str, Any], state: MutableMapping[Tensor, Any], where: str) -> None:
        """Let torch's optimizer make its step, and put the parameters back.

        Args:
            group: The parameter group.
            state: State by parameter, of our optimizer; torch's finds its own in it.
            where: The group's name in messages.

        Raises:
            NonFiniteError: The step is not finite; parameters and state are as they were.
        """
        self.parameters: list[Tensor] = group["params"]
        self._state = state
        self._before = {
            parameter: copy.deepcopy(state[parameter]) for parameter in self.parameters if parameter in state
        }
        old = [parameter.detach().clone() for parameter in self.parameters]
        inner = KINDS[group[KEY]](self.parameters)
        inner.param_groups, inner.state = [group], state
        try:
            inner.step()
            self._targets = [parameter.detach().clone() for parameter in self.parameters]
            checked_targets(self._targets, where)
        except BaseException as error:
            self.abandon()
            if isinstance(error, DdnError) or not isinstance(error, Exception):
                raise
            raise CurvatureError(f"{where}: {error} No parameter has been touched.") from error
        finally:
            with torch.no_grad():
                for parameter, value in zip(self.parameters, old, strict=True):
                    parameter.copy_(value)

    def targets(self, factor: float) -> list[Tensor | None]:
        """Return the parameters after a part of the step."""
        if factor == 1.0:
            return list(self._targets)
        pairs = zip(self.parameters, self._targets, strict=True)
        return [parameter.detach().lerp(target, factor) for parameter, target in pairs]

    def commit(self) -> None:
        """Keep the state after the step; it is there."""

    def abandon(self) -> None:
        """Put the state back to what it was before the step."""
        for parameter in self.parameters:
            if parameter in self._before:
                self._state[parameter] = self._before[parameter]
            else:
                self._state.pop(parameter, None)

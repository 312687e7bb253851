"""Parameters outside of all groups: an optimizer of torch updates them, in a group of our optimizer."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import LBFGS, SGD, Adam, AdamW, Optimizer

from ddn_core.config import Baseline
from ddn_core.errors import CurvatureError, NonFiniteError
from ddn_core.optim.planning import check_targets

KINDS: Mapping[str, Any] = {"sgd": SGD, "adam": Adam, "adamw": AdamW, "lbfgs": LBFGS}
KEY = "fallback"
"""Key of a parameter group whose value is the kind of the torch optimizer that updates the group."""


def torch_optimizer(config: Baseline, params: Any) -> Optimizer:
    """Return the torch optimizer that a config names."""
    made: Optimizer = KINDS[config.kind](params, **config.options())
    return made


def fallback_group(config: Baseline, params: Sequence[tuple[str, Tensor]]) -> dict[str, Any]:
    """Return a parameter group with all settings that torch's optimizer reads from it."""
    whole = torch_optimizer(config, [parameter for _, parameter in params]).param_groups[0]
    return {**whole, "params": list(params), KEY: config.kind}


class FallbackUpdate:
    """Planned update of a group by an optimizer of torch, which stepped on copies of parameters and state."""

    def __init__(
        self,
        group: dict[str, Any],
        gradients: Sequence[Tensor | None],
        state: MutableMapping[Tensor, Any],
        where: str,
    ) -> None:
        """Let torch's optimizer step on copies.

        Args:
            group: The parameter group.
            gradients: Gradients of its parameters.
            state: State of our optimizer by parameter; torch's optimizer reads its own state there.
            where: Name of the group in messages.

        Raises:
            CurvatureError: Torch's optimizer failed.
            NonFiniteError: The step is not finite.
        """
        self.parameters: list[Tensor] = group["params"]
        self._state = state
        self._copies = [_copy(*pair) for pair in zip(self.parameters, gradients, strict=True)]
        pairs = list(zip(self.parameters, self._copies, strict=True))
        inner = KINDS[group[KEY]](self._copies)
        inner.param_groups = [{**group, "params": self._copies}]
        inner.state = defaultdict(dict, {own: copy.deepcopy(state[p]) for p, own in pairs if p in state})
        try:
            inner.step()
            check_targets(own.detach() for own in self._copies)
        except Exception as error:
            kind = NonFiniteError if isinstance(error, NonFiniteError) else CurvatureError
            raise kind(f"{where}: {error} No parameter has been touched.") from error
        self._new_state = {parameter: inner.state[own] for parameter, own in pairs if own in inner.state}

    @torch.no_grad()
    def apply(self, factor: float) -> None:
        """Move the parameters by a part of the step from their current values."""
        for parameter, own in zip(self.parameters, self._copies, strict=True):
            parameter.copy_(own if factor == 1.0 else parameter.lerp(own, factor))

    def commit(self, taken: float) -> None:
        """Write the state that torch's optimizer has after the step; its tensors are new, its tables are not."""
        for parameter, state in self._new_state.items():
            self._state[parameter].clear()
            self._state[parameter].update(state)


def _copy(parameter: Tensor, gradient: Tensor | None) -> Tensor:
    """Return a copy of a parameter that has a gradient."""
    own = parameter.detach().clone().requires_grad_(parameter.requires_grad)
    own.grad = gradient
    return own

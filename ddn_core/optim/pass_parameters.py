"""The parameters as a backward pass found them: a step is made of them only if they are the same when it is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Size, Tensor

from ddn_core.engine import WantedParameter
from ddn_core.errors import CurvatureError
from ddn_core.optim.parameters import is_fallback, parameter_names, wanted_parameters

_State = tuple[int, int, Size]
"""Changes in place that autograd has counted, address, and shape; to read them, no operation is called."""

ADVICE = "No parameter has been touched. Call optimizer.zero_grad(), and run the backward pass again."


@dataclass(frozen=True, eq=False)
class PassParameters:
    """The parameters of all groups at a backward pass.

    Attributes:
        wanted: The parameters whose factors the step needs, by `id`.
        groups: The parameter groups, as they are now.
        members: The parameters of each group at the pass.
        every: Number of steps that directions serve, for each group at the pass; `None` for a fallback.
        states: State of each parameter at the pass.
    """

    wanted: Mapping[int, WantedParameter]
    groups: Sequence[Mapping[str, Any]]
    members: Sequence[Sequence[Tensor]]
    every: Sequence[int | None]
    states: Sequence[_State]

    @classmethod
    def of(cls, groups: Sequence[Mapping[str, Any]], is_due: Callable[[int], bool]) -> PassParameters:
        """Return the parameters as they are now.

        Args:
            groups: The parameter groups.
            is_due: Returns whether this step computes the directions of the group with the given number.
        """
        members = [tuple(group["params"]) for group in groups]
        every = [_every(group) for group in groups]
        return cls(wanted_parameters(groups, is_due), groups, members, every, _states(members))

    def now(self) -> PassParameters:
        """Return the same parameters of the pass, with their states as they are now."""
        return replace(self, states=_states(self.members))

    @property
    def are_cleared(self) -> bool:
        """True if no parameter of a group that makes damped Newton steps holds a gradient."""
        pairs = zip(self.members, self.every, strict=True)
        return all(own.grad is None for members, every in pairs if every is not None for own in members)

    def check(self) -> None:
        """Raise if the groups or their parameters have changed since the pass.

        Raises:
            CurvatureError: A group was added or removed, or has other parameters; or a parameter was changed in place,
                moved, cast or replaced.
        """
        if len(self.groups) != len(self.members):
            change = "added" if len(self.groups) > len(self.members) else "removed"
            raise CurvatureError(f"a parameter group was {change} after the backward pass. {ADVICE}")
        states = iter(self.states)
        for index, (group, members, every) in enumerate(zip(self.groups, self.members, self.every, strict=True)):
            if [id(own) for own in group["params"]] != [id(own) for own in members]:
                raise CurvatureError(
                    f"group {index} has other parameters than at the backward pass: {len(group['params'])} in place of "
                    f"{len(members)}, or others. {ADVICE}"
                )
            if _every(group) != every:
                raise CurvatureError(
                    f"group {index} had every = {every} at the backward pass, and has every = {_every(group)} now. "
                    f"{ADVICE}"
                )
            for place, (parameter, before) in enumerate(zip(members, states, strict=False)):
                if (now := _state(parameter)) != before:
                    raise CurvatureError(
                        f"group {index}: {parameter_names(group, index)[place]} {_change(before, now)} after the "
                        f"backward pass, so that gradient and curvature are not those at its value. {ADVICE}"
                    )


def _state(parameter: Tensor) -> _State:
    return parameter._version, parameter.data_ptr(), parameter.shape


def _states(members: Sequence[Sequence[Tensor]]) -> Sequence[_State]:
    return [_state(parameter) for own in members for parameter in own]


def _every(group: Mapping[str, Any]) -> int | None:
    return None if is_fallback(group) else int(group["every"])


def _change(before: _State, now: _State) -> str:
    """Return what has happened to a parameter, for a message."""
    if now[2] != before[2]:
        return f"of shape {list(before[2])} was replaced by a tensor of shape {list(now[2])}"
    return "was moved, cast or replaced" if now[1] != before[1] else "was changed in place"

"""Parameter groups, made from the tables of the user."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torch import Tensor
from torch.nn import Parameter

from ddn_core.errors import ArgumentError

S = TypeVar("S")


@dataclass(frozen=True, eq=False)
class Group(Generic[S]):
    """A checked parameter group.

    Attributes:
        table: The user's table. It is kept, so that no other table gets the same `id`.
        label: Name of the group in messages, such as `group 0`.
        parameters: Parameters of the group.
        strategies: Strategies of this group, which no other group shares.
    """

    table: Mapping[str, Any]
    label: str
    parameters: list[Parameter]
    strategies: S


def resolve_groups(
    param_groups: Sequence[Mapping[str, Any]],
    keys: Sequence[str],
    strategies: Callable[[Mapping[str, Any], str], S],
) -> list[Group[S]]:
    """Return the groups, each with its own strategies.

    Args:
        param_groups: Tables, one for each group.
        keys: Keys that a table must have; other keys are ignored.
        strategies: Returns the strategies for a table and the name of its group in messages.

    Raises:
        ArgumentError: The groups are not a list of tables, or the list is empty; a key is missing; a list of parameters
            is empty or has another object in it; or a parameter is in two groups.
        ConfigError: Raised by `strategies`.
    """
    if isinstance(param_groups, str | Mapping) or not isinstance(param_groups, Sequence):
        raise ArgumentError(f"the parameter groups are a {type(param_groups).__name__}. Give a list of tables.")
    if not param_groups:
        raise ArgumentError("there are no parameter groups. Give at least one.")
    groups: list[Group[S]] = []
    taken: dict[int, str] = {}
    for index, given in enumerate(param_groups):
        label = f"group {index}"
        if not isinstance(given, Mapping):
            raise ArgumentError(f"{label} is a {type(given).__name__}. Give a table.")
        if missing := [key for key in keys if key not in given]:
            raise ArgumentError(f"{label} has no {missing[0]!r}. Give each group {_listed(keys)}.")
        groups.append(Group(given, label, _parameters(given["params"], label, taken), strategies(given, label)))
    return groups


def _parameters(given: object, label: str, taken: dict[int, str]) -> list[Parameter]:
    """Return the parameters of a group, and record its label for them, by `id`, in `taken`."""
    if isinstance(given, Tensor | str) or not isinstance(given, Iterable):
        raise ArgumentError(f"{label} has params of type {type(given).__name__}. Give a list of parameters.")
    parameters = list(given)
    if not parameters:
        raise ArgumentError(f"{label} has an empty list of parameters. Add a parameter, or leave the group out.")
    for parameter in parameters:
        if not isinstance(parameter, Tensor) or not parameter.is_leaf:
            raise ArgumentError(f"{label} has {parameter!r} among its params. Give only parameters of a model.")
        if id(parameter) in taken:
            raise ArgumentError(
                f"a parameter of shape {list(parameter.shape)} is in {taken[id(parameter)]} and in {label}. "
                "Put each parameter into one group, once."
            )
        taken[id(parameter)] = label
    return parameters


def _listed(keys: Sequence[str]) -> str:
    """Return keys as a phrase: `'params', 'criterion' and 'damping'`."""
    quoted = [repr(key) for key in keys]
    return " and ".join([", ".join(quoted[:-1]), quoted[-1]] if len(quoted) > 1 else quoted)

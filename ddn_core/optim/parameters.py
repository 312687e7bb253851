"""From globs or tensors to torch's parameter groups."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from glob import escape
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import Parameter

from ddn_core.config import GroupConfig, GroupSettings
from ddn_core.config.grouping import assign_parameters
from ddn_core.config.stepping import FORMER_NAME
from ddn_core.engine import WantedParameter
from ddn_core.errors import ArgumentError
from ddn_core.plugins.messages import suggestion
from ddn_core.plugins.resolve import as_criterion, as_damping, validated

GROUP_DEFAULTS: Mapping[str, Any] = {name: entry.default for name, entry in GroupSettings.model_fields.items()}
"""Defaults of the settings of a parameter group."""

GROUP_KEYS = (
    *("params", "criterion", "damping"),
    *GROUP_DEFAULTS,
    *("param_names", "initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum"),  # torch's and its schedulers'
)
"""Keys that a parameter group may have."""


def is_fallback(group: Mapping[str, Any]) -> bool:
    """Return whether an optimizer of torch updates a group."""
    return "fallback" in group


def wanted_parameters(groups: Sequence[Mapping[str, Any]], is_due: Callable[[int], bool]) -> dict[int, WantedParameter]:
    """Return the parameters whose factors the step needs, by `id`.

    Args:
        groups: The parameter groups.
        is_due: Returns whether this step computes the directions of the group with the given number.
    """
    found = {}
    for index, group in enumerate(groups):
        if not is_fallback(group) and is_due(index):
            pairs = zip(parameter_names(group, index), group["params"], strict=True)
            found.update({id(p): WantedParameter(name, p, index) for name, p in pairs})
    return found


def parameter_names(group: Mapping[str, Any], index: int) -> Sequence[str]:
    """Return the names of a group's parameters, or their places where there is no name for each."""
    names, count = group.get("param_names", ()), len(group["params"])
    return names if len(names) == count else [f"parameter {place} of group {index}" for place in range(count)]


def devices_of(groups: Sequence[Mapping[str, Any]]) -> set[torch.device]:
    """Return the devices of the parameters."""
    return {parameter.device for group in groups for parameter in group["params"]}


def named(params: Iterable[tuple[str, Parameter]] | Iterable[Parameter]) -> dict[str, Parameter]:
    """Return parameters by name; parameters without a name get their position as name, `"0"`, `"1"`, ...

    Raises:
        ArgumentError: There is no parameter, or an object is not a parameter.
    """
    if isinstance(params, str | Tensor | Mapping) or not isinstance(params, Iterable):
        raise ArgumentError(f"params is a {type(params).__name__}. Pass model.named_parameters().")
    found: dict[str, Parameter] = {}
    for place, item in enumerate(params):
        name, parameter = cast("tuple[str, Parameter]", item if isinstance(item, tuple) else (str(place), item))
        if not isinstance(parameter, Tensor):
            raise ArgumentError(
                f"{parameter!r} is not a parameter. Pass model.named_parameters(), and the groups as `groups`."
            )
        if name in found:
            raise ArgumentError(f"two parameters are named {name!r}. Give each its own name.")
        found[name] = parameter
    if not found:
        raise ArgumentError("there are no parameters. Pass model.named_parameters() of a model that has some.")
    return found


def group_parameters(
    parameters: Mapping[str, Parameter], groups: Sequence[Mapping[str, Any] | GroupConfig], has_fallback: bool
) -> tuple[list[dict[str, Any]], list[tuple[str, Parameter]]]:
    """Return the groups with named parameters in place of globs or tensors, and the parameters outside of all groups.

    Args:
        parameters: The model's parameters by name.
        groups: Tables whose `"params"` are globs, or parameters of the model.
        has_fallback: Whether a parameter may be in no group, though it is not frozen.

    Raises:
        ArgumentError: A parameter is in two groups or, though it is not frozen, in none; a glob matches nothing.
    """
    if isinstance(groups, str | Mapping) or not isinstance(groups, Sequence):
        raise ArgumentError(f"groups is a {type(groups).__name__}. Give a list of tables, or a loaded config.")
    if not groups:
        raise ArgumentError("there are no parameter groups. Give at least one, or leave `groups` out.")
    tables = [_table(index, group) for index, group in enumerate(groups)]
    names = {id(parameter): name for name, parameter in parameters.items()}
    taken_tensors: dict[int, int] = {}
    globs = [_globs(index, group, names, taken_tensors) for index, group in enumerate(tables)]
    assignment = assign_parameters(list(parameters), globs)
    needed = [name for name, parameter in parameters.items() if parameter.requires_grad]
    if problems := assignment.problems([] if has_fallback else needed):
        raise ArgumentError(" ".join(problems))
    taken = [
        {**group, "params": [(name, parameters[name]) for name in taken]}
        for group, taken in zip(tables, assignment.members, strict=True)
    ]
    return taken, [(name, parameters[name]) for name in assignment.unassigned if name in set(needed)]


def with_names(group: dict[str, Any], others: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a group with a name for each parameter; parameters without names are named by their positions.

    Args:
        group: The group.
        others: The groups before it, whose parameters have the positions before.
    """
    params = group.get("params")
    if isinstance(params, Iterator):
        params = list(params)
        group = {**group, "params": params}
    members = [params] if isinstance(params, Tensor) else params
    if not isinstance(members, Sequence) or not all(isinstance(member, Tensor) for member in members):
        return group  # torch names the mistake, if there is one
    begin = sum(len(other["params"]) for other in others)
    return {**group, "params": [(str(begin + place), member) for place, member in enumerate(members)]}


def own_group(group: Mapping[str, Any], where: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return a group with strategies of its own.

    Raises:
        ArgumentError: A key is missing or unknown, or the learning rate is negative or not finite.
        ConfigError: A criterion, damping or another setting is wrong.
    """
    group = _with_current_name(group, where)
    _check_group(group, where, defaults)
    criterion, damping = as_criterion(group["criterion"], where), as_damping(group["damping"], where)
    return {**group, "criterion": criterion, "damping": damping}


def _with_current_name(group: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """Return the group with `include_complement` in place of the setting's former name.

    Raises:
        ArgumentError: The group has both names.
    """
    if FORMER_NAME not in group:
        return group
    if "include_complement" in group:
        raise ArgumentError(f"{where} has both 'include_complement' and its former name {FORMER_NAME!r}. Delete it.")
    return {"include_complement" if key == FORMER_NAME else key: value for key, value in group.items()}


def _check_group(group: Mapping[str, Any], where: str, defaults: Mapping[str, Any]) -> None:
    """Raise unless a group has all required keys, no unknown keys, and valid settings.

    Args:
        group: The group, without defaults.
        where: Name of the group in messages.
        defaults: Default values of settings.

    Raises:
        ArgumentError: A key is missing or unknown, or the learning rate is negative or not finite.
        ConfigError: Another setting is out of bounds.
    """
    if missing := [key for key in ("params", "criterion", "damping") if key not in group]:
        raise ArgumentError(f"{where} has no {missing[0]!r}. A group has 'params', 'criterion' and 'damping'.")
    if unknown := [key for key in group if key not in GROUP_KEYS]:
        raise ArgumentError(f"{where} has an unknown key {unknown[0]!r}.{suggestion(str(unknown[0]), GROUP_KEYS)}")
    lr = group.get("lr", defaults["lr"])
    if not isinstance(lr, int | float | Tensor) or not 0 <= float(lr) < float("inf"):
        raise ArgumentError(f"{where} has lr = {lr!r}. Use a finite number that is not negative.")
    settings = {name: group.get(name, defaults[name]) for name in GROUP_DEFAULTS if name != "lr"}
    validated(GroupSettings, settings, where)


def _table(index: int, group: Mapping[str, Any] | GroupConfig) -> dict[str, Any]:
    if isinstance(group, Mapping | GroupConfig):
        return dict(group)
    raise ArgumentError(
        f"group {index} is a {type(group).__name__}. Give a table with 'params', 'criterion', 'damping'."
    )


def _globs(index: int, group: Mapping[str, Any], names: Mapping[int, str], taken_tensors: dict[int, int]) -> list[str]:
    """Return a group's globs; a tensor stands for its own name, and is noted in `taken_tensors` with its group."""
    given = group.get("params")
    entries = [given] if isinstance(given, str | Tensor) else list(given or [])
    if not entries:
        raise ArgumentError(f"group {index} has no params. Give it globs on parameter names, or parameters.")
    globs = []
    for entry in entries:
        if isinstance(entry, str):
            globs.append(entry)
            continue
        if id(entry) not in names:
            shape = f" of shape {list(entry.shape)}" if isinstance(entry, Tensor) else f" {entry!r}"
            raise ArgumentError(
                f"group {index} names a parameter{shape} that is not among the optimizer's params. Add it to `params`, "
                "or delete it from the group."
            )
        if id(entry) in taken_tensors:
            raise ArgumentError(
                f"parameter {names[id(entry)]} is in group {taken_tensors[id(entry)]} and in group {index}. Put each "
                "parameter into one group, once."
            )
        taken_tensors[id(entry)] = index
        globs.append(escape(names[id(entry)]))
    return globs

"""Comparison of the state in a checkpoint with the state of the training that is to continue from it.

A checkpoint may be damaged, or made by hand: a tensor of another shape or a word in place of a number would otherwise
end in an error of torch some steps later, or in none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor
from torch.optim import LBFGS, Optimizer

from ddn_core.errors import ArgumentError
from ddn_core.foreign import Count, Finite, mistake
from ddn_core.optim import DirectionalDampedNewton
from ddn_core.optim.outcomes import FAMILIES
from ddn_core.optim.parameters import GROUP_DEFAULTS

LARGEST = 1e30
"""Size that no setting of an optimizer or scheduler reaches, unless it is infinite."""


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True)


class _Watch(_Strict):
    first: list[float]
    last: list[float]
    lowest: float
    count: Count


class _Stopping(_Strict):
    means: dict[str, tuple[float, Count]]
    best: float | None
    waited: Count
    seconds: Finite


class _Ending(_Strict):
    """The state of the rules that end a run."""

    watch: _Watch
    stopping: _Stopping


def check_saved_state(saved: Mapping[str, Any], own: Mapping[str, Any], optimizer: Optimizer) -> None:
    """Check that a saved state has the form of the state of this training: names, shapes, and types of numbers.

    Args:
        saved: The state in the checkpoint.
        own: The state of model, optimizer, scheduler and stop rules before the saved one is loaded.
        optimizer: The optimizer.

    Raises:
        ArgumentError: The form differs; the message has the path to the first difference.
    """
    found = (
        _difference(own["model"], saved["model"], "model")
        or _difference(own["scheduler"], _of_any_version(own["scheduler"], saved.get("scheduler")), "scheduler")
        or _groups_difference(own["optimizer"], saved["optimizer"], optimizer)
        or _state_mistake(saved["optimizer"]["state"], optimizer)
        or _ending_mistake(own["ending"], saved.get("ending"))
    )
    if found:
        raise ArgumentError(f"The checkpoint belongs to another model or optimizer, or is damaged: {found}.")


def _of_any_version(own: Any, saved: Any) -> Any:
    """Return the state of a scheduler with the same names, although versions of torch differ in names of no effect."""
    if not isinstance(own, Mapping) or not isinstance(saved, Mapping):
        return saved
    missing = {name: value for name, value in own.items() if name.startswith("_")}
    return {**missing, **{name: value for name, value in saved.items() if name != "verbose"}}


def _groups_difference(own: Mapping[str, Any], saved: Mapping[str, Any], optimizer: Optimizer) -> str | None:
    """Return the first difference between the settings of parameter groups."""
    if missing := [name for name in own if not isinstance(saved.get(name), type(own[name]))]:
        return f"optimizer.{missing[0]} is missing, or of another type"
    groups = saved["param_groups"]
    if not all(isinstance(group, dict) for group in groups):
        return "optimizer.param_groups is not a list of tables"
    for number, group in enumerate(groups):
        for name in FAMILIES:
            parts = group.get(name, {"table": {}, "state": {}})
            if not isinstance(parts, dict) or not all(isinstance(parts.get(part), dict) for part in ("table", "state")):
                return f"optimizer.param_groups.{number}.{name} has no table or no state"
            own_parts = own["param_groups"][number].get(name) if number < len(own["param_groups"]) else None
            if own_parts and (found := _difference(own_parts["table"], parts["table"], f"group {number}, {name}")):
                return found
    return _difference(
        _settings(own["param_groups"]), _settings(_completed(groups, optimizer)), "optimizer.param_groups"
    )


def _completed(groups: Sequence[Mapping[str, Any]], optimizer: Optimizer) -> Sequence[Mapping[str, Any]]:
    """Return groups with the defaults of settings that earlier versions of their optimizer lack."""
    if isinstance(optimizer, DirectionalDampedNewton):
        return [{**GROUP_DEFAULTS, **group} for group in groups]
    loading = copy(optimizer)
    loading.__setstate__({"state": {}, "param_groups": [dict(group) for group in groups]})  # torch adds its defaults
    return loading.param_groups


def _settings(groups: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in group.items() if name not in FAMILIES} for group in groups]


def _state_mistake(states: Mapping[Any, Any], optimizer: Optimizer) -> str | None:
    """Return the first mistake in the values that torch keeps for each parameter, in words; `None` if there is none."""
    groups = [group for group in optimizer.param_groups for _ in group["params"]]
    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    total = (sum(one.numel() for one in parameters),)
    forms: dict[int, dict[str, bool]] = {}
    for index, state in states.items():
        place = f"optimizer.state.{str(index)[:60]}"
        if not isinstance(index, int) or not 0 <= index < len(parameters) or not isinstance(state, dict):
            return f"{place} is not a state of a parameter"
        own = parameters[index]
        shapes = [total, ()] if isinstance(optimizer, LBFGS) else [tuple(own.shape)]
        form = {name: isinstance(value, Tensor) for name, value in state.items()}
        if FAMILIES[0] not in groups[index] and forms.setdefault(id(groups[index]), form) != form:
            names = ", ".join(sorted(form))
            return f"{place} has the values {names!r}, which differ from those of other parameters of its group"
        for name, value in state.items():
            for part in value if isinstance(value, list) else [value]:
                if isinstance(part, Tensor) and tuple(part.shape) not in [*shapes, *([()] if name == "step" else [])]:
                    return f"{place}.{name} has the shape {list(part.shape)}, not {list(shapes[0])}"
                if isinstance(part, Tensor) and not part.is_floating_point() and own.is_floating_point():
                    return f"{place}.{name} has the type {part.dtype}"
                if not isinstance(part, Tensor | int | float | None):
                    return f"{place}.{name} is not a number"
    return None


def _ending_mistake(own: Mapping[str, Any], saved: Any) -> str | None:
    """Return the first mistake in the state of the rules that end a run, in words; `None` if there is none.

    Checkpoints of earlier versions have no such state.
    """
    if saved is None:
        return None
    try:
        _Ending.model_validate(saved)
    except ValidationError as error:
        return f"ending.{mistake(error)}"
    means, own_means = saved["stopping"]["means"], own["stopping"]["means"]
    return None if means.keys() == own_means.keys() else "ending.stopping.means has other names"


def _difference(own: Any, saved: Any, path: str) -> str | None:
    """Return the first difference in form between two values of plain data, in words; `None` if there is none."""
    if isinstance(own, Tensor):
        if not isinstance(saved, Tensor):
            return f"{path} is not a tensor"
        if saved.shape != own.shape:
            return f"{path} has the shape {list(saved.shape)}, not {list(own.shape)}"
        return None if saved.dtype == own.dtype else f"{path} has the type {saved.dtype}, not {own.dtype}"
    if isinstance(own, Mapping):
        if not isinstance(saved, Mapping):
            return f"{path} is not a table"
        for name in own:
            if name not in saved:
                return f"{path}.{name} is missing"
        for name in saved:
            if name not in own:
                return f"{path}.{str(name)[:60]!r} is unknown"
        return next((found for name in own if (found := _difference(own[name], saved[name], f"{path}.{name}"))), None)
    if isinstance(own, list | tuple):
        if not isinstance(saved, list | tuple) or len(saved) != len(own):
            return f"{path} is not a list of {len(own)} values"
        pairs = enumerate(zip(own, saved, strict=True))
        return next((found for index, (a, b) in pairs if (found := _difference(a, b, f"{path}.{index}"))), None)
    if isinstance(own, int | float) and not isinstance(own, bool):
        is_number = isinstance(saved, int | float) and not isinstance(saved, bool)
        return None if is_number and (abs(saved) < LARGEST or saved == own) else f"{path} is not a number in the range"
    return None if type(saved) is type(own) else f"{path} has the type {type(saved).__name__}, not {type(own).__name__}"

"""The optimizer's state beyond torch's: counters, random generators, outcomes, held directions and strategies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from torch import Tensor

from ddn_core.engine import Context, Outcome
from ddn_core.errors import ArgumentError, StrategyError
from ddn_core.generators import DeviceGenerators
from ddn_core.optim.outcomes import FAMILIES
from ddn_core.optim.parameters import GROUP_DEFAULTS, is_fallback, parameter_names
from ddn_core.optim.planning import OF_EARLIER_STEPS
from ddn_core.optim.reuse import HeldDirections
from ddn_core.plugins.resolve import in_group
from ddn_core.plugins.strategy import Criterion, Damping, Strategy

FITTING = "Load the state into the optimizer that saved it."
"""Advice for a state that belongs to other parameters."""

KEY = "ddn"
"""Key of an optimizer's `state_dict` that holds `Progress`."""


@dataclass
class Progress:
    """Values that change from step to step, beyond parameters, strategies and torch's state.

    Attributes:
        generators: Random generators of the Monte-Carlo samples.
        step_count: Number of steps.
        skipped_steps: Number of steps that were not made since loss or step was not finite.
        undone_steps: Number of steps that were undone since they raised the loss.
        outcomes: Outcome of the last step, by group.
        held: Directions that later steps reuse, by group.
        before: Parameters before the last step, by group, to which a step may go back.
    """

    generators: DeviceGenerators
    step_count: int = 0
    skipped_steps: int = 0
    undone_steps: int = 0
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    held: dict[int, HeldDirections] = field(default_factory=dict)
    before: dict[int, list[Tensor]] = field(default_factory=dict)

    def context(self, index: int, group: Mapping[str, Any]) -> Context:
        """Return step, group and learning rate, and the outcome of the group's last step."""
        return Context(self.step_count, index, float(group["lr"]), self.outcomes.get(index))

    def reused(self, index: int, group: Mapping[str, Any]) -> HeldDirections | None:
        """Return the directions that a group's next step reuses; `None` if that step computes its own."""
        held = self.held.get(index)
        return held if held is not None and held.age < int(group["every"]) else None

    def state_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return {
            "step_count": self.step_count,
            "skipped_steps": self.skipped_steps,
            "undone_steps": self.undone_steps,
            "generators": self.generators.state_dict(),
            "outcomes": {index: asdict(outcome) for index, outcome in self.outcomes.items()},
            "held": {index: held.state_dict() for index, held in self.held.items()},
            "before": {index: list(values) for index, values in self.before.items()},
        }

    def loaded(self, state: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> Progress:
        """Return the progress that `state_dict` returned, for these parameter groups; this one does not change.

        Raises:
            ArgumentError: The state belongs to other parameters, or to a device that is not there.
        """
        outcomes, held, before = state["outcomes"], state["held"], state.get("before", {})
        for index in (*outcomes, *held, *before):
            if index not in range(len(groups)):
                raise ArgumentError(
                    f"the state has a group {index!r}, but the optimizer has groups 0 to {len(groups) - 1}. {FITTING}"
                )
        for index, values in before.items():
            _check_shapes(f"group {index}: parameters before the last step", values, groups[index]["params"])
        return Progress(
            generators=self.generators.loaded(state["generators"]),
            step_count=int(state["step_count"]),
            skipped_steps=int(state["skipped_steps"]),
            undone_steps=int(state["undone_steps"]),
            outcomes={index: Outcome(**saved) for index, saved in outcomes.items()},
            held={index: HeldDirections.loaded(saved, groups[index]["params"]) for index, saved in held.items()},
            before={
                index: [
                    value.to(own.device, copy=True) for value, own in zip(values, groups[index]["params"], strict=True)
                ]
                for index, values in before.items()
            },
        )


def saved_state(torch_state: dict[str, Any], groups: Sequence[Mapping[str, Any]], progress: Progress) -> dict[str, Any]:
    """Return torch's state with tables and states in place of strategies, and with the progress.

    Raises:
        StrategyError: A strategy has a state that no checkpoint could be read with.
    """
    for index, (saved, group) in enumerate(zip(torch_state["param_groups"], groups, strict=True)):
        state_of = in_group(Strategy.saved_state, f"group {index}")
        for family in _families(group):
            saved[family] = {"table": group[family].table(), "state": state_of(group[family])}
    torch_state[KEY] = progress.state_dict()
    return torch_state


def loaded_state(
    state_dict: Mapping[str, Any], groups: Sequence[Mapping[str, Any]], progress: Progress
) -> tuple[dict[str, Any], list[dict[str, Criterion | Damping]], Progress]:
    """Return torch's state, copies of each group's strategies in their saved states, and the progress.

    Neither the groups nor their strategies nor the given progress change.

    Raises:
        ArgumentError: The state belongs to another optimizer, or has other groups.
        StrategyError: A strategy differs from the one that the state was saved with.
    """
    strategies = _loaded_strategies(_saved_strategies(state_dict, groups), groups)
    _check_parameter_states(state_dict, groups)
    plain = [
        {**({} if is_fallback(saved) else GROUP_DEFAULTS), **{key: saved[key] for key in saved if key not in FAMILIES}}
        for saved in state_dict["param_groups"]
    ]
    return {**state_dict, "param_groups": plain}, strategies, progress.loaded(state_dict[KEY], groups)


def _check_parameter_states(state_dict: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> None:
    """Raise unless each tensor that is saved for a parameter, such as its momentum, has the parameter's shape.

    Numbers of steps, which some optimizers of torch save as tensors without an axis, are no such tensors.

    Raises:
        ArgumentError: A tensor has another shape, as if it belonged to another parameter.
    """
    for index, (saved, group) in enumerate(zip(state_dict["param_groups"], groups, strict=True)):
        for place, (key, parameter) in enumerate(zip(saved["params"], group["params"], strict=True)):
            for name, value in state_dict["state"].get(key, {}).items():
                if (name in OF_EARLIER_STEPS and value is not None) or (isinstance(value, Tensor) and value.dim()):
                    where = f"group {index}: {name} of {parameter_names(group, index)[place]}"
                    _check_shapes(where, [value], [parameter])


def _check_shapes(where: str, values: Sequence[Any], parameters: Sequence[Tensor]) -> None:
    """Raise unless values are tensors in the shapes of parameters.

    Args:
        where: The values, for a message.
        values: The values of a state.
        parameters: The parameters that they belong to.

    Raises:
        ArgumentError: A value is not a tensor, or has another shape, or their numbers differ.
    """
    found = [list(value.shape) if isinstance(value, Tensor) else type(value).__name__ for value in values]
    if found != (own := [list(parameter.shape) for parameter in parameters]):
        raise ArgumentError(
            f"{where}: the state has tensors of shapes {found}, but the parameters have shapes {own}. Nothing has been "
            f"changed. {FITTING}"
        )


def _families(group: Mapping[str, Any]) -> tuple[str, ...]:
    return () if is_fallback(group) else FAMILIES


def _saved_strategies(
    state_dict: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]
) -> list[dict[str, tuple[Any, Any]]]:
    """Return table and state of each strategy of a state, which has all parts and the same groups."""
    try:
        saved_groups, _ = state_dict["param_groups"], state_dict["state"]
        _ = [state_dict[KEY][entry.name] for entry in fields(Progress) if entry.name != "before"]  # added later
        saved = [
            {family: (group[family]["table"], group[family]["state"]) for family in _families(group)}
            for group in saved_groups
        ]
        kinds, own_kinds = ([group.get("fallback") for group in some] for some in (saved_groups, groups))
        sizes, own_sizes = ([len(group["params"]) for group in some] for some in (saved_groups, groups))
    except (KeyError, TypeError) as error:
        raise ArgumentError(
            f"the state was not saved by DirectionalDampedNewton: {error} is missing. Load it into the optimizer that "
            "saved it."
        ) from error
    if sizes != own_sizes:
        raise ArgumentError(
            f"the state has groups of {sizes} parameters, but the optimizer has groups of {own_sizes}. Load the state "
            "into the optimizer that saved it."
        )
    if kinds != own_kinds:
        raise ArgumentError(
            f"the state has fallbacks {kinds} for its groups, but the optimizer has {own_kinds}. Load the state into "
            "the optimizer that saved it."
        )
    return saved


def _loaded_strategies(
    saved: Sequence[Mapping[str, tuple[Any, Any]]], groups: Sequence[Mapping[str, Any]]
) -> list[dict[str, Criterion | Damping]]:
    """Return copies of all groups' strategies in the states that were saved."""
    loaded = []
    for index, (tables, group) in enumerate(zip(saved, groups, strict=True)):
        own = {}
        for family, (table, state) in tables.items():
            if table != group[family].table():
                raise StrategyError(
                    f"group {index} was saved with {family} {table}, but has {group[family].table()}. Set the "
                    "optimizer up as it was when it was saved."
                )
            own[family] = group[family].model_copy(deep=True)
            own[family].check_state(state)
            own[family].load_state_dict(state)
        loaded.append(own)
    return loaded

"""The strategies' part of an optimizer's `state_dict`: what is saved of them, and how it is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ddn_core.errors import ArgumentError, StrategyError
from ddn_core.plugins.strategy import Criterion, Damping

FAMILIES = ("criterion", "damping")
"""The keys of a parameter group that hold strategies."""


def save_strategies(saved_groups: Sequence[dict[str, Any]], groups: Sequence[Mapping[str, Any]]) -> None:
    """Put each strategy's table and state, as plain data, in place of the strategy."""
    for saved, group in zip(saved_groups, groups, strict=True):
        for family in FAMILIES:
            saved[family] = {"table": group[family].table(), "state": group[family].state_dict()}


def loaded_strategies(
    state_dict: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]
) -> list[dict[str, Criterion | Damping]]:
    """Return copies of the groups' strategies in the states that were saved; the groups' own are not changed.

    Raises:
        ArgumentError: The state is another optimizer's, or has other groups.
        StrategyError: A strategy differs from the one that the state was saved with.
    """
    try:
        saved_groups = state_dict["param_groups"]
        _ = [state_dict["ddn"][key] for key in ("step_count", "generators", "outcomes")]
        saved = [
            {family: (group[family]["table"], group[family]["state"]) for family in FAMILIES} for group in saved_groups
        ]
        sizes, own_sizes = ([len(group["params"]) for group in some] for some in (saved_groups, groups))
    except (KeyError, TypeError) as error:
        raise ArgumentError(
            f"the state was not saved by DirectionalDampedNewton: {error} is missing. Load it into the optimizer that "
            "saved it."
        ) from error
    if sizes != own_sizes:
        raise ArgumentError(f"the state has groups of {sizes} parameters, but the optimizer has {own_sizes}.")
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

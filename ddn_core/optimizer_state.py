"""The strategies' part of an optimizer's `state_dict`: what is saved of them, and whether it fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ddn_core.errors import ArgumentError, StrategyError

FAMILIES = ("criterion", "damping")
"""The keys of a parameter group that hold strategies."""


def save_strategies(saved_groups: Sequence[dict[str, Any]], groups: Sequence[Mapping[str, Any]]) -> None:
    """Put each strategy's table and state, as plain data, in place of the strategy."""
    for saved, group in zip(saved_groups, groups, strict=True):
        for family in FAMILIES:
            saved[family] = {"table": group[family].table(), "state": group[family].state_dict()}


def check_loadable(state_dict: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> None:
    """Raise unless the state was saved from an optimizer with equal groups and strategies.

    Raises:
        ArgumentError: The state is another optimizer's, or has other groups.
        StrategyError: A strategy differs from the one that the state was saved with.
    """
    if "ddn" not in state_dict:
        raise ArgumentError("the state was not saved by DirectionalDampedNewton. Load it into the optimizer it is of.")
    saved_groups = state_dict["param_groups"]
    sizes, own_sizes = ([len(group["params"]) for group in some] for some in (saved_groups, groups))
    if sizes != own_sizes:
        raise ArgumentError(f"the state has groups of {sizes} parameters, but the optimizer has {own_sizes}.")
    for index, (saved, group) in enumerate(zip(saved_groups, groups, strict=True)):
        for family in FAMILIES:
            if saved[family]["table"] != group[family].table():
                raise StrategyError(
                    f"group {index} was saved with {family} {saved[family]['table']}, but has "
                    f"{group[family].table()}. Set the optimizer up as it was when it was saved."
                )
            group[family].check_state(saved[family]["state"])


def load_strategies(
    saved_groups: Sequence[Mapping[str, Any]], groups: Sequence[dict[str, Any]], own: Sequence[Mapping[str, Any]]
) -> None:
    """Put the optimizer's own strategies back into its groups, in the states that were saved."""
    for saved, group, strategies in zip(saved_groups, groups, own, strict=True):
        for family in FAMILIES:
            strategies[family].load_state_dict(saved[family]["state"])
            group[family] = strategies[family]

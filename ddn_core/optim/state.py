"""What an optimizer's `state_dict` has beyond torch's: what is saved, and how it is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ddn_core.engine import Outcome
from ddn_core.errors import ArgumentError, StrategyError
from ddn_core.generators import DeviceGenerators
from ddn_core.optim.outcomes import FAMILIES
from ddn_core.optim.parameters import is_fallback
from ddn_core.optim.reuse import HeldDirections
from ddn_core.plugins.strategy import Criterion, Damping

if TYPE_CHECKING:
    from ddn_core.optim.optimizer import DirectionalDampedNewton

COUNTERS = ("_step_count", "skipped_steps", "undone_steps")
"""Attributes of the optimizer that count."""

KEYS = (*(name.lstrip("_") for name in COUNTERS), "generators", "outcomes", "held")
"""What the state has of ours."""


def saved_state(state: dict[str, Any], optimizer: DirectionalDampedNewton) -> dict[str, Any]:
    """Return torch's state with plain data in place of strategies, and with all that is ours."""
    for saved, group in zip(state["param_groups"], optimizer.param_groups, strict=True):
        for family in FAMILIES if not is_fallback(group) else ():
            saved[family] = {"table": group[family].table(), "state": group[family].state_dict()}
    state["ddn"] = {
        **{name.lstrip("_"): getattr(optimizer, name) for name in COUNTERS},
        "generators": optimizer._generators.state_dict(),
        "outcomes": {index: asdict(outcome) for index, outcome in optimizer._outcomes.items()},
        "held": {index: held.state_dict() for index, held in optimizer._held.items()},
    }
    return state


@dataclass(frozen=True, eq=False)
class LoadedState:
    """A state that was checked against an optimizer, and is ready to be put into it.

    Attributes:
        plain: What torch loads.
        strategies: For each group, copies of its strategies in the states that were saved.
        attributes: Values by attribute of the optimizer.
    """

    plain: dict[str, Any]
    strategies: list[dict[str, Criterion | Damping]]
    attributes: dict[str, Any]

    @classmethod
    def of(
        cls, state_dict: Mapping[str, Any], groups: Sequence[Mapping[str, Any]], generators: DeviceGenerators
    ) -> LoadedState:
        """Return a checked state; neither the groups nor their strategies are changed.

        Raises:
            ArgumentError: The state is another optimizer's, or has other groups.
            StrategyError: A strategy differs from the one that the state was saved with.
        """
        strategies = _loaded_strategies(state_dict, groups)
        own = state_dict["ddn"]
        held = {index: HeldDirections.loaded(saved, groups[index]["params"]) for index, saved in own["held"].items()}
        attributes = {
            **{name: int(own[name.lstrip("_")]) for name in COUNTERS},
            "_generators": generators.loaded(own["generators"]),
            "_outcomes": {index: Outcome(**saved) for index, saved in own["outcomes"].items()},
            "_held": held,
        }
        plain = [{key: saved[key] for key in saved if key not in FAMILIES} for saved in state_dict["param_groups"]]
        return cls({**state_dict, "param_groups": plain}, strategies, attributes)

    def put_into(self, optimizer: DirectionalDampedNewton) -> None:
        """Give the optimizer its strategies and attributes, after torch has loaded the rest."""
        for group, own in zip(optimizer.param_groups, self.strategies, strict=True):
            group.update(own)
        for name, value in self.attributes.items():
            setattr(optimizer, name, value)


def _loaded_strategies(
    state_dict: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]
) -> list[dict[str, Criterion | Damping]]:
    try:
        saved_groups = state_dict["param_groups"]
        _ = [
            state_dict["ddn"][key]
            for key in (*(name.lstrip("_") for name in COUNTERS), "generators", "outcomes", "held")
        ]
        saved = [
            {family: (group[family]["table"], group[family]["state"]) for family in FAMILIES if not is_fallback(group)}
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
        raise ArgumentError(f"the state has groups of {sizes} parameters, but the optimizer has {own_sizes}.")
    if kinds != own_kinds:
        raise ArgumentError(f"the state has {kinds} as fallbacks of its groups, but the optimizer has {own_kinds}.")
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

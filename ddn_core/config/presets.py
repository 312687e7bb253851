"""Presets: named settings of the optimizer, each written out as the plain settings that it stands for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pydantic import BaseModel

from ddn_core.errors import ArgumentError

M = TypeVar("M", bound=BaseModel)

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "averaged": {
        "curvature": {"kind": "ggn-aligned"},
        "step": {"on_increase": "damp", "without_closure": "keep", "on_nonfinite": "back"},
        "groups": [
            {
                "params": ["*"],
                "criterion": {"kind": "all"},
                "damping": {"kind": "fresh-batch"},
                "averaging": "auto",
                "max_decrease": 4.0,
                "max_relative_norm": 0.3,
            }
        ],
    },
    "least-squares": {
        "curvature": {"kind": "ggn"},
        "step": {"on_increase": "damp"},
        "groups": [
            {
                "params": ["*"],
                "criterion": {"kind": "all"},
                "damping": {"kind": "levenberg-marquardt", "initial": 1e-2, "increase": 4.0, "decrease": 0.25},
            }
        ],
    },
}
"""The presets by name.

`averaged`, the default, is for mini-batches and needs no tuning. `least-squares` is for full batches and a closure.
"""

PresetName = Literal["averaged", "least-squares"]
"""Names of the presets."""

DEFAULT: PresetName = "averaged"
"""Name of the preset of an optimizer or a config without groups."""


def chosen_tables(preset: PresetName | None, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the tables `"groups"`, `"curvature"` and `"step"` of an optimizer with one group.

    Args:
        preset: Name of the preset; by default `DEFAULT`, or none at all if the settings have a damping.
        settings: Settings of the group, which take precedence.

    Raises:
        ArgumentError: There is no such preset.
    """
    if preset is None and "damping" in settings:
        return {"groups": [{"params": ["*"], "criterion": "all", **settings}], "curvature": {}, "step": {}}
    if (tables := PRESETS.get(preset or DEFAULT)) is None:
        raise ArgumentError(f"there is no preset {preset!r}. Use one of {', '.join(map(repr, PRESETS))}.")
    return {**tables, "groups": [{**tables["groups"][0], **settings}]}


def rules_with_defaults(given: M | Mapping[str, Any] | None, defaults: Mapping[str, Any]) -> M | Mapping[str, Any]:
    """Return step rules with a preset's settings where they have none of their own.

    A rule that is given for steps that raise the loss is meant: it then requires a closure, as it does without preset.
    """
    if isinstance(given, Mapping) and "on_increase" in given:
        defaults = {name: value for name, value in defaults.items() if name != "without_closure"}
    return with_defaults(given, defaults)


def with_defaults(given: M | Mapping[str, Any] | None, defaults: Mapping[str, Any]) -> M | Mapping[str, Any]:
    """Return a table with a preset's settings where it has none of its own; a complete object stays as it is."""
    return {**defaults, **(given or {})} if given is None or isinstance(given, Mapping) else given

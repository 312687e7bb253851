"""Assignments from the command line, such as `groups.0.damping.value=1e-3`; the value is a TOML literal.

An assignment to `kind` removes the other fields of its table, which belong to the old kind. `*` stands for every entry
of a list: `groups.*.lr=0.5`.
"""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from ddn_core.errors import ConfigError
from ddn_core.plugins.messages import value_text
from ddn_core.plugins.sizes import DEEPEST
from ddn_core.text import shortened


class AssignmentError(ConfigError):
    """An assignment cannot be made.

    Attributes:
        assignment: The assignment, as the user wrote it.
        reason: The message without the option that the assignment belongs to.
    """

    def __init__(self, assignment: str, reason: str) -> None:
        super().__init__(f"--set: {reason}")
        self.assignment = assignment
        self.reason = reason


def apply_overrides(table: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return a copy of the table with the assignments made, in order.

    Raises:
        AssignmentError: An assignment has no `=`, its value is not a TOML literal, or its path does not exist.
    """
    result = copy.deepcopy(dict(table))
    for override in overrides:
        try:
            _apply(result, override)
        except ConfigError as error:
            raise AssignmentError(override, str(error)) from error
    return result


def _apply(table: dict[str, Any], override: str) -> None:
    path, equals, literal = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(
            f"{value_text(override)} is not an assignment. Write path=value, such as groups.0.damping.value=1e-3."
        )
    if len(keys) > DEEPEST:
        raise ConfigError(f"{shortened(path, 200)}: the path has {len(keys)} parts. Use at most {DEEPEST}.")
    for each in _expanded(table, keys):
        _assign(table, each, _parse(path, literal))


def _expanded(table: dict[str, Any], keys: list[str]) -> list[list[str]]:
    """Return the paths that a path stands for: one for each list entry where the path has `*`."""
    found: list[tuple[list[str], Any]] = [([], table)]
    for key in keys:
        grown = []
        for path, place in found:
            if key == "*" and isinstance(place, list):
                grown += [([*path, str(index)], item) for index, item in enumerate(place)]
            else:
                inside = place.get(key) if isinstance(place, dict) else None
                if isinstance(place, list):
                    inside = {str(index): item for index, item in enumerate(place)}.get(key)
                grown.append(([*path, key], inside))
        found = grown
    return [path for path, _ in found]


def _parse(path: str, literal: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {literal.strip()}")
    except (ValueError, RecursionError) as error:  # ValueError: a number with thousands of digits, too
        raise ConfigError(
            f"{path}: {value_text(literal)} is not a TOML literal. Write numbers as they are and text in quotes: "
            f"--set '{path}=\"{shortened(literal.strip(), 200)}\"'."
        ) from error
    if set(parsed) != {"value"}:
        raise ConfigError(f"{path}: {literal!r} is more than one TOML literal. Repeat --set for each value.")
    return parsed["value"]


def _assign(table: dict[str, Any], keys: list[str], value: Any) -> None:
    *parents, last = keys
    place: Any = table
    for depth, key in enumerate(parents):
        path = ".".join(keys[: depth + 1])
        place = place[_index(place, key, path)] if isinstance(place, list) else place.setdefault(key, {})
        if not isinstance(place, dict | list):
            raise ConfigError(f"{path}: is {place!r}, which has nothing inside it. End the path here.")
    if isinstance(place, list):
        place[_index(place, last, ".".join(keys))] = value
    elif last == "kind" and place.get("kind", value) != value:
        place.clear()
        place["kind"] = value
    else:
        place[last] = value


def _index(place: list[Any], key: str, path: str) -> int:
    indices = {str(index): index for index in range(len(place))}
    if key not in indices:
        entries = "entry" if len(place) == 1 else "entries"
        raise ConfigError(f"{path}: the list has {len(place)} {entries}, counted from 0; {key!r} is not among them")
    return indices[key]

"""Limits on the size of tables: how deeply they are nested, and how large their integers are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from ddn_core.plugins.messages import path_text
from ddn_core.text import shortened

DEEPEST = 50
"""Largest number of levels of tables and lists; strategies inside of each other take one or two levels each."""

LARGEST = 2**63 - 1
"""Largest integer, as in TOML; no count that a machine can make is larger."""

Path = tuple[str | int, ...]


def depth_faults(table: Any) -> list[str]:
    """Return a line, with the path, if a table is nested too deeply; objects of pydantic models count as tables."""
    for path, value in _values(table):
        if len(path) >= DEEPEST and _inside(value):
            return [_line(path, f"tables are nested too deeply, in more than {DEEPEST} levels; use fewer")]
    return []


def integer_faults(table: Any) -> list[str]:
    """Return a line, with the path, for each integer of a table that is too large for any field."""
    numbers = [(path, value) for path, value in _values(table) if isinstance(value, int)]
    return [_line(path, "the integer is too large") for path, value in numbers if abs(value) > LARGEST]


def _line(path: Path, message: str) -> str:
    return f"{shortened(path_text(path), 200)}: {message}" if path else message


def _values(table: Any) -> Iterator[tuple[Path, Any]]:
    """Yield the values in a table with their paths, down to the deepest level, without a recursion."""
    places: list[tuple[Path, Any]] = [((), table)]
    depths: dict[int, int] = {}
    while places:
        path, value = places.pop()
        yield path, value
        inside = _inside(value)
        if inside and len(path) < DEEPEST and depths.get(id(value), -1) < len(path):  # not again where it is shared
            depths[id(value)] = len(path)
            places += [((*path, key), item) for key, item in reversed(inside)]


def _inside(value: Any) -> list[tuple[str | int, Any]]:
    """Return the entries of a table, a list or a model, with their keys."""
    if isinstance(value, dict):
        return [(str(key), item) for key, item in value.items()]
    if isinstance(value, list | tuple):
        return list(enumerate(value))
    if isinstance(value, BaseModel):
        return [(name, vars(value).get(name)) for name in type(value).model_fields]
    return []

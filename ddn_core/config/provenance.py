"""The resolved config: all defaults filled in, with the versions of everything that was used."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib import metadata
from typing import Any

from ddn_core.config.schema import Config
from ddn_core.plugins.registry import Registry, installed_registry


def resolved_config(config: Config, registry: Registry | None = None) -> dict[str, Any]:
    """Return the config as a table that can be loaded again, with its provenance.

    The provenance names the versions of Python, ddn, torch and BackPACK, and each plugin that the config uses.
    """
    table = config.model_dump(mode="json", exclude={"provenance"}, exclude_none=True)
    registry = registry or installed_registry()
    used = {registry.origin_of(kind) for kind in _kinds(table)}
    table["provenance"] = {
        "python": platform.python_version(),
        "ddn": metadata.version("ddn-core"),
        "torch": metadata.version("torch"),
        "backpack": metadata.version("backpack-for-pytorch"),
        "plugins": [
            {"name": entry.name, "distribution": entry.distribution, "version": entry.version}
            for entry in sorted(used, key=lambda entry: entry.name)
        ],
    }
    return table


def _kinds(table: dict[str, Any]) -> Iterator[str]:
    """Yield the kind of every strategy and problem in a dumped config, nested ones too."""
    places = [
        table.get("problem"),
        *(group[family] for group in table["groups"] for family in ("criterion", "damping")),
    ]
    while places:
        place = places.pop()
        if isinstance(place, dict):
            if isinstance(place.get("kind"), str):
                yield place["kind"]
            places.extend(place.values())
        elif isinstance(place, list):
            places.extend(place)

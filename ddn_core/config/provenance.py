"""The resolved config: all defaults filled in, with the versions of the software that was used."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib import metadata
from typing import Any

from pydantic import BaseModel

from ddn_core.config.schema import Config
from ddn_core.plugins.component import Component
from ddn_core.plugins.registry import Registry, installed_registry


def resolved_config(config: Config, registry: Registry | None = None) -> dict[str, Any]:
    """Return the config as a table with all defaults and its provenance; the table is a config again.

    The provenance has the versions of Python, ddn, torch, BackPACK, and each plugin that the config uses.
    """
    table = config_table(config)
    registry = registry or installed_registry()
    used = {registry.origin_of(kind) for kind in _kinds(config)}
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


def config_table(config: Config) -> dict[str, Any]:
    """Return the config as a table with all defaults, without provenance."""
    return config.model_dump(mode="json", exclude={"provenance"}, exclude_none=True, by_alias=True)


def _kinds(place: Any) -> Iterator[str]:
    """Yield the kind of every strategy and problem in a config, including nested ones."""
    if isinstance(place, Component) and (kind := type(place).kind) is not None:
        yield kind
    if isinstance(place, BaseModel):
        place = [getattr(place, name) for name in type(place).model_fields]
    if isinstance(place, dict):
        place = list(place.values())
    if isinstance(place, list | tuple):
        for item in place:
            yield from _kinds(item)

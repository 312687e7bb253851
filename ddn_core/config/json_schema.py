"""The JSON Schema of config files, with every installed plugin: what an editor completes and validates with."""

from __future__ import annotations

import inspect
from typing import Any

from pydantic import BaseModel

from ddn_core.config.schema import Config
from ddn_core.plugins.component import Component
from ddn_core.plugins.describe import unit_text
from ddn_core.plugins.hookspecs import FAMILIES
from ddn_core.plugins.reference import FAMILY
from ddn_core.plugins.registry import Registry, installed_registry

DIALECT = "https://json-schema.org/draft/2020-12/schema"
POINTER = "#/$defs/"


def config_schema(registry: Registry | None = None) -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of config files, as plain data.

    Each strategy and problem of a plugin that can be loaded is a definition; a table is told by its `kind`. What
    compares two fields with each other cannot be said in it.

    Args:
        registry: The plugins; the installed ones by default.
    """
    definitions: dict[str, Any] = {}
    schema = _own(Config, "config", definitions)
    families: dict[str, list[str]] = {family: [] for family in FAMILIES}
    for record in (registry or installed_registry()).plugins():
        for family, kinds in record.components.items():
            for kind, cls in kinds.items():
                name = f"{family}.{kind.replace('/', '.')}"
                families[family].append(name)
                definitions[name] = _of_component(cls, kind, _own(cls, name, definitions))
    for family, names in families.items():
        definitions[family] = {"oneOf": [{"$ref": POINTER + name} for name in names]}
    return {"$schema": DIALECT, **schema, "title": "A config of ddn", "$defs": definitions}


def _of_component(cls: type[Component], kind: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a class with its kind, and its docstring as the description."""
    properties = {"kind": {"const": kind, "description": cls.summary()}, **schema.get("properties", {})}
    for name, field in cls.model_fields.items():
        if unit := unit_text(field):
            properties[field.alias or name]["unit"] = unit
    return {
        **schema,
        "title": kind,
        "description": inspect.getdoc(cls) or "",
        "properties": properties,
        "required": ["kind", *schema.get("required", [])],
    }


def _own(model: type[BaseModel], name: str, definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a model; those of models inside are put among the definitions, under the model's name."""
    schema = model.model_json_schema()
    inside = schema.pop("$defs", {})
    for inner, definition in inside.items():
        definitions[f"{name}.{inner}"] = _relocated(definition, name)
    relocated: dict[str, Any] = _relocated(schema, name)
    return relocated


def _relocated(place: Any, name: str) -> Any:
    """Return a schema whose references lead to the common definitions."""
    if isinstance(place, list):
        return [_relocated(item, name) for item in place]
    if isinstance(place, str) and place.startswith(POINTER):
        return f"{POINTER}{name}.{place.removeprefix(POINTER)}"
    if not isinstance(place, dict):
        return place
    found = {key: _relocated(item, name) for key, item in place.items() if key != FAMILY}
    if FAMILY in place:
        found["$ref"] = POINTER + place[FAMILY]
    return found

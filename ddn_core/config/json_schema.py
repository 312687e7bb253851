"""The JSON Schema of config files, with every installed plugin; editors complete and validate files with it."""

from __future__ import annotations

import inspect
import json
from typing import Any

from pydantic import BaseModel

from ddn_core.config.schema import Config
from ddn_core.plugins.component import Component
from ddn_core.plugins.containment import contained
from ddn_core.plugins.describe import unit_text
from ddn_core.plugins.hookspecs import FAMILIES
from ddn_core.plugins.messages import error_text
from ddn_core.plugins.reference import FAMILY
from ddn_core.plugins.registry import Registry, installed_registry

DIALECT = "https://json-schema.org/draft/2020-12/schema"
POINTER = "#/$defs/"


def config_schema(registry: Registry | None = None) -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of config files, as plain data.

    The schema has a definition for each strategy and problem of every plugin that can be loaded, and selects it by the
    table's `kind`. It leaves out most rules that compare two fields with each other, since JSON Schema has no words for
    them.

    Args:
        registry: Registry of the plugins; by default that of the installed ones.
    """
    return partial_schema(registry or installed_registry())[0]


def partial_schema(registry: Registry) -> tuple[dict[str, Any], list[str]]:
    """Return the JSON Schema of config files, and a line for each plugin and kind that it lacks.

    Args:
        registry: Registry of the plugins.
    """
    missing: list[str] = []
    definitions: dict[str, Any] = {}
    schema = _model_schema(Config, "config", definitions)
    families: dict[str, list[str]] = {family: [] for family in FAMILIES}
    for record in registry.plugins():
        if record.error is not None:
            missing.append(f"The schema lacks the kinds of a plugin: {record.error}")
        for family, kinds in record.components.items():
            for kind, cls in kinds.items():
                name = f"{family}.{kind.replace('/', '.')}"
                own: dict[str, Any] = {}
                try:
                    with contained():
                        own[name] = _component_schema(cls, kind, _model_schema(cls, name, own))
                        json.dumps(own)
                except Exception as error:  # a field that JSON cannot describe, or an error of the plugin
                    missing.append(f"The schema lacks the {family} {kind!r}: {error_text(error)}")
                    continue
                definitions.update(own)
                families[family].append(name)
    for family, names in families.items():
        choices: list[dict[str, Any]] = [{"$ref": POINTER + name} for name in names]
        complete = [definitions[name]["title"] for name in names if definitions[name]["required"] == ["kind"]]
        choices.append({"enum": complete, "description": "The name of a kind, with its defaults."})
        if family == "damping":
            choices.append({"type": "number", "minimum": 0, "description": "A constant damping."})
        definitions[family] = {"oneOf": choices}
    return {"$schema": DIALECT, **schema, "title": "A config of ddn", "$defs": definitions}, missing


def _component_schema(cls: type[Component], kind: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a strategy or problem, with its kind, and with its docstring as the description."""
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


def _model_schema(model: type[BaseModel], name: str, definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a model, and add the schemas of the models inside it to the definitions, under `name`."""
    schema = model.model_json_schema()
    inside = schema.pop("$defs", {})
    for inner, definition in inside.items():
        definitions[f"{name}.{inner}"] = _relocated(definition, name)
    relocated: dict[str, Any] = _relocated(schema, name)
    return relocated


def _relocated(place: Any, name: str) -> Any:
    """Return a schema whose references point to the common definitions."""
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

"""Descriptions of classes and their fields as text, in the terms of a config file."""

from __future__ import annotations

import inspect
import json
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ddn_core.plugins.component import Component
from ddn_core.plugins.units import unit_of

NAMES = {int: "integer", float: "number", str: "string", bool: "boolean", dict: "table"}
BOUNDS = {Gt: ("gt", ">"), Ge: ("ge", "≥"), Lt: ("lt", "<"), Le: ("le", "≤")}
EXAMPLES = {"criterion": {"kind": "all"}, "damping": {"kind": "constant"}, "problem": {"kind": "digits-mlp"}}


def paragraphs(cls: type[Component]) -> list[str]:
    """Return the paragraphs of a class's docstring, each as one line."""
    return [" ".join(text.split()) for text in (inspect.getdoc(cls) or cls.summary()).split("\n\n")]


def unit_text(field: FieldInfo) -> str:
    """Return the unit of a field: `1` for an integer, which counts something; an empty text for other types."""
    unit = unit_of(field)
    if unit is not None:
        return unit.text
    return "1" if _is_integer(field.annotation) else ""


def _is_integer(annotation: Any) -> bool:
    """Return whether a type is `int`, or a list, a tuple or an optional of it."""
    if get_origin(annotation) is Literal:
        return False
    return annotation is int or any(_is_integer(item) for item in get_args(annotation))


def type_text(annotation: Any, metadata: list[Any] | tuple[Any, ...] = ()) -> str:
    """Return the description of a type in the terms of a config file: `integer > 0`, `list of dampings`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_text(arguments[0], [*arguments[1:], *metadata])
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(type_text(item, metadata) for item in arguments if item is not NoneType))
    if origin is Literal:
        return " or ".join(f"`{json.dumps(item)}`" for item in arguments)
    if origin is list:
        filled = any(item.min_length for item in metadata if isinstance(item, MinLen))
        return f"{'non-empty ' if filled else ''}list of {plural(type_text(*arguments))}"
    if origin is tuple:
        texts = [type_text(item) for item in arguments]
        same = len(set(texts)) == 1
        return f"list of {len(arguments)} {plural(texts[0])}" if same else f"list of {' and '.join(texts)}"
    if isinstance(annotation, type) and issubclass(annotation, Component):
        return f"{annotation.family} (table with a `kind`)"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "table"
    plain = origin or annotation
    bounds = [
        f"{sign} {getattr(item, name):g}"
        for kind, (name, sign) in BOUNDS.items()
        for item in constraints(metadata, kind)
    ]
    name = NAMES[plain] if plain in NAMES else str(getattr(plain, "__name__", plain))
    return " ".join([name, ", ".join(bounds)]).strip()


def constraints(metadata: list[Any] | tuple[Any, ...], kind: type) -> list[Any]:
    """Return the constraints of one kind, including those inside of a `Field(...)`."""
    flat = [inner for item in metadata for inner in (item.metadata if isinstance(item, FieldInfo) else [item])]
    return [item for item in flat if isinstance(item, kind)]


def plural(text: str) -> str:
    """Return the plural of a text of `type_text`, whose first word is the noun."""
    irregular = {"criterion": "criteria"}
    noun, space, qualifier = text.partition(" ")
    return irregular.get(noun, f"{noun}s") + space + qualifier.replace("table with", "tables with")


def default_text(field: FieldInfo) -> str:
    """Return the default of a field as a TOML literal, `required`, `left out`, or `its defaults` for a table."""
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    if default is None:
        return "left out"
    if isinstance(default, BaseModel):
        return "its defaults"
    return f"`{json.dumps(default)}`"


def tables_inside(annotation: Any) -> list[type[BaseModel]]:
    """Return the models of the tables that a field of this type can contain, except strategies and problems."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel) and not issubclass(annotation, Component):
        return [annotation]
    return [model for item in get_args(annotation) for model in tables_inside(item)]


def field_rows(model: type[BaseModel]) -> list[tuple[str, str, str, str, str]]:
    """Return name, type, default, unit and description of each field of a model."""
    return [
        (
            f"`{field.alias or name}`",
            type_text(field.annotation, field.metadata),
            default_text(field),
            unit_text(field),
            field.description or "",
        )
        for name, field in model.model_fields.items()
    ]


def example(cls: type[Component]) -> dict[str, Any]:
    """Return an example config table of a component: each field with its example, or else with its default."""
    found: dict[str, Any] = {"kind": cls.kind}
    for name, field in cls.model_fields.items():
        if field.examples:
            found[name] = field.examples[0]
        elif field.is_required():
            found[name] = _example_of(field.annotation)
        elif (default := field.get_default(call_default_factory=True, validated_data={})) is not None:
            found[name] = default
    return found


def _example_of(annotation: Any) -> Any:
    """Return an example value of a type."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _example_of(arguments[0])
    if origin is list:
        return [_example_of(arguments[0])]
    if isinstance(annotation, type) and issubclass(annotation, Component):
        return EXAMPLES[annotation.family]
    return "..." if annotation is str else 1.0 if annotation is float else 1

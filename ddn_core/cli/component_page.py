"""The page that `ddn plugins show KIND` prints."""

from __future__ import annotations

import inspect
import textwrap
from typing import Any

import tomlkit
from pydantic import BaseModel
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.syntax import Syntax
from rich.table import Table

from ddn_core.cli.terminal import lines
from ddn_core.errors import PluginError, UnknownKindError
from ddn_core.plugins.component import Component
from ddn_core.plugins.describe import example, field_rows, paragraphs, tables_inside
from ddn_core.plugins.hookspecs import FAMILIES
from ddn_core.plugins.messages import error_text, suggestion
from ddn_core.plugins.registry import Registry
from ddn_core.text import printable_lines

METHODS = {"criterion": "select", "damping": "damp", "problem": "load"}


def component_page(kind: str, registry: Registry) -> RenderableType:
    """Return the documentation of a kind: class, fields, example and formula, for each family that has the kind.

    Raises:
        UnknownKindError: No family has the kind.
        PluginError: The plugin of the kind is not installed, is switched off, or cannot be loaded, or the class cannot
            be described.
    """
    found = []
    for family in FAMILIES:
        try:
            found.append(registry.lookup(family, kind))
        except UnknownKindError:  # perhaps the kind belongs to another family
            continue
    if not found:
        kinds = [name for record in registry.plugins() for some in record.components.values() for name in some]
        same = [name for name in kinds if name.endswith(f"/{kind}")]
        hint = f" Did you mean {same[0]!r}?" if same else suggestion(kind, kinds)
        raise UnknownKindError(f"no strategy or problem named {kind!r}.{hint}")
    try:
        return Group(*(part for cls in found for part in _page(cls, kind, registry)))
    except Exception as error:  # raised by a field of the plugin
        raise PluginError(f"{kind!r} cannot be described: {error_text(error)}") from error


def config_example(cls: type[Component]) -> str:
    """Return the part of a config that uses a component, as TOML."""
    table = tomlkit.document()
    if cls.family == "problem":
        table["problem"] = {key: _toml(value) for key, value in example(cls).items()}
        return tomlkit.dumps(table).strip()
    others = {"criterion": {"kind": "all"}, "damping": {"kind": "constant"}}
    group = tomlkit.table()
    group["params"] = ["*"]
    for family, other in others.items():
        if family != cls.family:
            group[family] = _toml(other)
    if cls.family == "damping":
        if cls.kind == "fresh-batch":
            group["averaging"], group["max_decrease"], group["max_relative_norm"] = "auto", 4.0, 0.3
        else:
            group["max_step_norm"] = 1.0  # most dampings, on their own, let some steps become too long
    component = tomlkit.table()  # not an inline table: TOML allows no line breaks in one, and it may be long
    component.update({key: _toml(value) for key, value in example(cls).items()})
    group[cls.family] = component
    groups = tomlkit.aot()
    groups.append(group)
    table["groups"] = groups
    return tomlkit.dumps(table).strip()


def _page(cls: type[Component], kind: str, registry: Registry) -> list[RenderableType]:
    entry = registry.origin_of(kind)
    head = lines(kind, "bold") + lines(f", a {cls.family} of plugin {entry.name!r} ({entry})")
    where = lines(f"{cls.__module__}.{cls.__qualname__}", "dim")
    parts: list[RenderableType] = [head, where, ""]
    for text in paragraphs(cls):
        parts += [lines(text.replace("`", "")), ""]
    if cls.model_fields:
        parts += [_fields("Fields", cls), ""]
    for name, field in cls.model_fields.items():
        for model in tables_inside(field.annotation):
            parts += [_fields(f"{name}: {model.__doc__}", model), ""]
    parts += [lines("Example", "bold"), Padding(_code(config_example(cls), "toml"), (0, 0, 1, 2))]
    try:
        source = textwrap.dedent(inspect.getsource(getattr(cls, METHODS[cls.family])))
    except (OSError, TypeError):
        return parts
    return [*parts, lines("Formula", "bold"), Padding(_code(source.rstrip(), "python"), (0, 0, 0, 2))]


def _fields(title: str, model: type[BaseModel]) -> Table:
    table = Table(title=lines(title), title_justify="left", title_style="bold")
    for column in ("field", "type", "default", "unit", "description"):
        table.add_column(column, overflow="fold")
    for row in field_rows(model):
        table.add_row(*(lines(cell.replace("`", "")) for cell in row))
    return table


def _code(text: str, language: str) -> Syntax:
    return Syntax(printable_lines(text.expandtabs(4)), language, background_color="default", word_wrap=True)


def _toml(value: Any) -> Any:
    """Return a value for a TOML document; tables become inline tables."""
    if isinstance(value, Component):
        value = value.table()
    if isinstance(value, dict):
        table = tomlkit.inline_table()
        table.update({key: _toml(item) for key, item in value.items() if item is not None})
        return table
    if isinstance(value, list | tuple):
        array = tomlkit.array()
        array.extend(_toml(item) for item in value)
        return array
    return value

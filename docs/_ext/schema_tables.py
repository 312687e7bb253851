"""Directives that make the config reference from the pydantic schema, so that it cannot go stale.

`{schema-table} ddn_core.config.GroupConfig` makes the table of a model's fields. `{kind-tables} damping` makes a
section for each built-in kind of a family, with its docstring and the table of its fields. `{supported-modules}` names
the layers and losses that the engine knows.
"""

import inspect
import json
import re
from importlib import import_module
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from docutils import nodes
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from ddn_core.engine.capture.jacobians import JACOBIANS
from ddn_core.engine.capture.loss import LOSSES
from ddn_core.plugins.component import Component
from ddn_core.plugins.discovery import BUILTIN
from ddn_core.plugins.registry import installed_registry

HEAD = ("field", "type", "default", "description")
WIDTHS = (15, 25, 15, 45)
NAMES = {int: "integer", float: "number", str: "string", bool: "boolean", dict: "table"}
BOUNDS = {Gt: ("gt", ">"), Ge: ("ge", "≥"), Lt: ("lt", "<"), Le: ("le", "≤")}


class SchemaTable(SphinxDirective):
    """The table of a model's fields; the argument is the path of the model."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        module, _, name = self.arguments[0].rpartition(".")
        return [field_table(getattr(import_module(module), name))]


class KindTables(SphinxDirective):
    """A section for each built-in kind of a family; the argument is the family."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        (builtin,) = (record for record in installed_registry().plugins() if record.name == BUILTIN)
        if builtin.error is not None:
            raise builtin.error
        return [self._section(kind, cls) for kind, cls in builtin.components[self.arguments[0]].items()]

    def _section(self, kind: str, cls: type[Component]) -> nodes.section:
        section = nodes.section(ids=[f"{cls.family}-{kind}"], names=[f"{cls.family} {kind}"])
        section += nodes.title("", "", nodes.literal(text=kind))
        section += [nodes.paragraph("", "", *inline(text)) for text in paragraphs(cls)]
        section += field_table(cls) if cls.model_fields else nodes.paragraph(text="It has no fields.")
        self.state.document.note_explicit_target(section)
        return section


class SupportedModules(SphinxDirective):
    """Two paragraphs: the supported layers, and the supported losses."""

    def run(self) -> list[nodes.Node]:
        return [self._listed("Layers", set(JACOBIANS)), self._listed("Losses", set(LOSSES))]

    def _listed(self, head: str, modules: set[type]) -> nodes.paragraph:
        torchs = sorted(f"nn.{module.__name__}" for module in modules if module.__module__.startswith("torch."))
        others = sorted(
            f"{module.__module__}.{module.__name__}" for module in modules if not module.__module__.startswith("torch.")
        )
        listed = ", ".join(f"`{name}`" for name in [*torchs, *others])
        return nodes.paragraph("", "", nodes.strong(text=f"{head}: "), *inline(f"{listed}."))


def paragraphs(cls: type[Component]) -> list[str]:
    """Return the paragraphs of a class's docstring, each in one line."""
    return [" ".join(text.split()) for text in (inspect.getdoc(cls) or cls.summary()).split("\n\n")]


def field_table(model: type[BaseModel]) -> nodes.table:
    """Return a table with a row for each field of a model."""
    rows = [
        (f"`{name}`", type_text(field.annotation, field.metadata), default_text(field), field.description or "")
        for name, field in model.model_fields.items()
    ]
    table, group = nodes.table(classes=["colwidths-given"]), nodes.tgroup(cols=len(HEAD))
    group += [nodes.colspec(colwidth=width) for width in WIDTHS]
    group += nodes.thead("", row(HEAD))
    group += nodes.tbody("", *map(row, rows))
    table += group
    return table


def row(texts: tuple[str, ...]) -> nodes.row:
    return nodes.row("", *(nodes.entry("", nodes.paragraph("", "", *inline(text))) for text in texts))


def inline(text: str) -> list[nodes.Node]:
    """Return a text as nodes, with what stands in backticks as code."""
    parts = re.split(r"`+([^`]+)`+", text)
    return [nodes.literal(text=part) if i % 2 else nodes.Text(part) for i, part in enumerate(parts) if part]


def type_text(annotation: Any, metadata: list[Any] | tuple[Any, ...] = ()) -> str:
    """Return a type as a reader of a config file knows it: `integer > 0`, `list of dampings`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_text(arguments[0], [*arguments[1:], *metadata])
    if origin in (Union, UnionType):
        return " or ".join(type_text(item, metadata) for item in arguments if item is not NoneType)
    if origin is Literal:
        return " or ".join(f"`{json.dumps(item)}`" for item in arguments)
    if origin is list:
        empty = any(item.min_length for item in metadata if isinstance(item, MinLen))
        return f"{'non-empty ' if empty else ''}list of {plural(type_text(*arguments))}"
    if origin is tuple:
        return f"list of {len(arguments)} {plural(type_text(arguments[0]))}"
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
    return " ".join([NAMES.get(plain) or getattr(plain, "__name__", str(plain)), ", ".join(bounds)]).strip()


def constraints(metadata: list[Any] | tuple[Any, ...], kind: type) -> list[Any]:
    """Return the constraints of a kind, also those inside of a `Field(...)`."""
    flat = [inner for item in metadata for inner in (item.metadata if isinstance(item, FieldInfo) else [item])]
    return [item for item in flat if isinstance(item, kind)]


def plural(text: str) -> str:
    """Return the plural of what `type_text` gives; its first word is the noun."""
    irregular = {"criterion": "criteria"}
    word, space, rest = text.partition(" ")
    return irregular.get(word, f"{word}s") + space + rest.replace("table with", "tables with")


def default_text(field: FieldInfo) -> str:
    """Return the default of a field as one writes it in TOML."""
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    if default is None:
        return "left out"
    if isinstance(default, BaseModel):
        return "its defaults"
    return f"`{json.dumps(default)}`"


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("schema-table", SchemaTable)
    app.add_directive("kind-tables", KindTables)
    app.add_directive("supported-modules", SupportedModules)
    return {"version": "1", "parallel_read_safe": True}

"""Directives that generate the config reference from the pydantic schema, so that it is never outdated.

`{schema-table} ddn_core.config.GroupConfig` makes the table of a model's fields. `{kind-tables} damping` makes a
section for each built-in kind of a family, with its docstring and the table of its fields.
"""

import re
from importlib import import_module
from typing import Any

from docutils import nodes
from pydantic import BaseModel
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from ddn_core.plugins.component import Component
from ddn_core.plugins.describe import field_rows, paragraphs
from ddn_core.plugins.discovery import BUILTIN
from ddn_core.plugins.registry import installed_registry

HEAD = ("field", "type", "default", "unit", "description")
WIDTHS = (15, 23, 13, 9, 40)


class SchemaTable(SphinxDirective):
    """Table of a model's fields; the argument is the import path of the model."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        module, _, name = self.arguments[0].rpartition(".")
        return [field_table(getattr(import_module(module), name))]


class KindTables(SphinxDirective):
    """One section for each built-in kind of a family; the argument is the family."""

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


def field_table(model: type[BaseModel]) -> nodes.table:
    """Return a table with a row for each field of a model."""
    rows = [tuple(cell if cell != "1" else "none" for cell in row) for row in field_rows(model)]
    table, group = nodes.table(classes=["colwidths-given"]), nodes.tgroup(cols=len(HEAD))
    group += [nodes.colspec(colwidth=width) for width in WIDTHS]
    group += nodes.thead("", row(HEAD))
    group += nodes.tbody("", *map(row, rows))
    table += group
    return table


def row(texts: tuple[str, ...]) -> nodes.row:
    return nodes.row("", *(nodes.entry("", nodes.paragraph("", "", *inline(text))) for text in texts))


def inline(text: str) -> list[nodes.Node]:
    """Return a text as nodes, with code for the parts in backticks."""
    parts = re.split(r"`+([^`]+)`+", text)
    return [nodes.literal(text=part) if i % 2 else nodes.Text(part) for i, part in enumerate(parts) if part]


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("schema-table", SchemaTable)
    app.add_directive("kind-tables", KindTables)
    return {"version": "1", "parallel_read_safe": True}

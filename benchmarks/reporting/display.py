"""Printing of results in the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from benchmarks.reporting.environment import environment_text
from benchmarks.reporting.markdown import target_table
from benchmarks.reporting.part import Result
from benchmarks.reporting.summary import NOT_JUDGED, Table

_COLOURS = {"yes": "green", "no": "bold red", NOT_JUDGED: "yellow"}


def show(result: Result, console: Console) -> None:
    """Print the tables and targets of a result."""
    console.rule(result.part.title)
    summary = result.summary
    for table in summary.tables:
        console.print(_rich_table(table))
    if summary.targets:
        console.print(_rich_table(target_table(summary.targets)))
    console.print(environment_text(result.environment), style="dim", highlight=False)


def _rich_table(table: Table) -> RichTable:
    shown = RichTable(title=table.title, title_justify="left")
    for index, column in enumerate(table.columns):
        shown.add_column(column, justify="left" if index == 0 else "right")
    for row in table.rows:
        shown.add_row(*(Text(cell, style=_COLOURS.get(cell, "")) for cell in row))
    return shown

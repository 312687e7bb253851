"""Rows of figures as text: CSV for programs, HTML for notebooks."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from html import escape

from ddn_core.text import printable

Row = Mapping[str, str | int | float | None]

FORMULA = ("=", "+", "-", "@")
"""Beginnings of text that a spreadsheet takes for a formula."""


def csv_text(rows: Sequence[Row], names: Sequence[str] = ()) -> str:
    """Return rows as CSV, numbers with all their digits, and text so that a spreadsheet shows it and runs nothing.

    Args:
        rows: The rows.
        names: Names of the columns; by default those of the first row.
    """
    names = list(names or (rows[0] if rows else ()))
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(map(csv_cell, names))
    table.writerows([csv_cell(row[name]) for name in names] for row in rows)
    return text.getvalue()


def csv_cell(value: str | int | float | None) -> str | int | float | None:
    """Return a value as a cell of CSV.

    Text is made printable. Text that a spreadsheet would take for a formula gets an apostrophe before it, the mark that
    spreadsheets use for text; a number, such as the text -0.5, stays as it is.
    """
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.startswith(FORMULA) and not _is_number(text) else text


def html_table(rows: Sequence[Row]) -> str:
    """Return rows as an HTML table, numbers with three digits."""
    names = list(rows[0]) if rows else []
    head = "".join(f"<th>{escape(name.replace('_', ' '))}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(short_text(row[name]))}</td>" for name in names) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def short_text(value: str | int | float | None) -> str:
    """Return a number in short form, and a dash if it is missing or NaN."""
    if value is None or value != value:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True

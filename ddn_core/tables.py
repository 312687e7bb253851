"""Rows of figures as text: CSV for programs, HTML for notebooks."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from html import escape

Row = Mapping[str, str | int | float | None]


def csv_text(rows: Sequence[Row], names: Sequence[str] = ()) -> str:
    """Return rows as CSV, numbers with all their digits.

    Args:
        rows: The rows.
        names: Names of the columns; by default those of the first row.
    """
    text = io.StringIO()
    table = csv.DictWriter(text, list(names or (rows[0] if rows else ())), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


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

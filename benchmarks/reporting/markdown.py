"""Sections and tables in Markdown."""

from __future__ import annotations

from typing import Any

from benchmarks.reporting.environment import environment_text
from benchmarks.reporting.summary import Summary, Table, Target, duration


def fragment(
    title: str,
    text: str,
    summary: Summary,
    pictures: list[str],
    environment: dict[str, Any],
    seconds: float,
    picture_folder: str = "",
) -> str:
    """Return the section of a part.

    Args:
        title: Heading.
        text: Description of the measurement.
        summary: Tables and targets.
        pictures: File names of the figures.
        environment: Environment of the measurements.
        seconds: Duration of the part.
        picture_folder: Folder of the figures, with a slash at its end.
    """
    pieces = [f"## {title}", text]
    if summary.targets:
        pieces.append(markdown_table(target_table(summary.targets)))
    pieces += [f"![{title}: {name}]({picture_folder}{name})" for name in pictures]
    for table in summary.tables:
        pieces += [f"### {table.title}", markdown_table(table)]
    pieces.append(f"Measured in {duration(seconds)}: {environment_text(environment)}")
    return "\n\n".join(pieces) + "\n"


def target_table(targets: list[Target]) -> Table:
    """Return targets as a table."""
    rows = [[target.wanted, target.measured, target.verdict] for target in targets]
    return Table("Targets", ["target", "measured", "met"], rows)


def markdown_table(table: Table) -> str:
    """Return a table in Markdown."""
    lines = [table.columns, ["---"] * len(table.columns), *table.rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)

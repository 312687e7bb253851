"""The HTML report of a comparison: its leaderboard, and the curves of all runs."""

from __future__ import annotations

from pathlib import Path

from ddn_core.cli.compare.plan import Plan
from ddn_core.errors import ArgumentError
from ddn_core.reports import Section, Table, write_report
from ddn_core.runs import Comparison, RunRecord

REPORT = "report.html"


def write_comparison(folder: Path, plan: Plan, comparison: Comparison) -> int | None:
    """Write the report, and return its size in bytes; nothing if no run can be read.

    Args:
        folder: Folder of the comparison.
        plan: Its plan.
        comparison: What came out.

    Raises:
        ArgumentError: plotly is not installed.
    """
    runs = []
    for task, (name, _) in zip(plan.tasks(folder), plan.trials, strict=True):
        try:
            runs.append(RunRecord.read(task.run, name))
        except ArgumentError:
            continue  # it failed before it began
    if not runs:
        return None
    return write_report(folder / REPORT, runs, extra_sections=[leaderboard_section(comparison)], title="Comparison")


def leaderboard_section(comparison: Comparison) -> Section:
    """Return the leaderboard as a section of a report, with what chance could do below it."""
    heading, rows = comparison.rows()
    better = "more" if comparison.maximize else "less"
    return Section(
        "leaderboard",
        "Leaderboard",
        f"Configs by {comparison.metric.replace('_', ' ')} after the last epoch; {better} is better. Each cell has the "
        f"median and the range over {len(comparison.seeds)} seeds.",
        tables=[Table("Leaderboard", [text.replace("_", " ") for text in heading], rows)],
        notes=[comparison.statement],
    )

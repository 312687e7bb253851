"""`ddn compare`: train several configs of one problem with the same seeds, and rank them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ddn_core import reports
from ddn_core.cli.options import default_folder
from ddn_core.cli.trials import Report, Running, check_metrics, count, order_text, run_plan, say, titled
from ddn_core.errors import ArgumentError
from ddn_core.plugins.registry import Registry
from ddn_core.runs.comparison import Comparison, Spread
from ddn_core.runs.scores import Target
from ddn_core.trials.comparison import CURVES, LEADERBOARD, ComparisonPlan, ComparisonTables, Contest
from ddn_core.trials.folder import TABLE, TrialFolder
from ddn_core.trials.process import Result

REPORT = "report.html"

_METRICS = 3
"""Number of metrics that fit side by side on a narrow terminal."""


def compare(contest: Contest, resume: Path | None, out: Path | None, running: Running, registry: Registry) -> int:
    """Run a comparison, or the rest of one, and return the exit status.

    Raises:
        ArgumentError: An option is wrong, problems differ, the folder is of another comparison, or no run has the
            metric.
        ConfigError: The config of a trial is wrong.
    """
    reports.check_installed()

    def begin() -> tuple[ComparisonPlan, Path]:
        if not contest.configs:
            raise ArgumentError("name the CONFIGs to compare, or a folder with --resume")
        return ComparisonPlan.of(contest, registry), out or default_folder(Path("compare"))

    defined = out is not None or contest != Contest()
    return run_plan(ComparisonReport, ComparisonPlan, resume, defined, begin, running, registry)


class ComparisonReport(Report[ComparisonPlan]):
    """The tables of a comparison: all runs, their curves, the leaderboard, and the page with all of it."""

    def __init__(self, folder: TrialFolder, plan: ComparisonPlan) -> None:
        super().__init__(folder, plan)
        self._tables = ComparisonTables(folder, plan)

    def write(self, results: Mapping[int, Result]) -> None:
        """Write a row for each run, a row for each evaluation, and the leaderboard."""
        self._tables.write(results)

    def show(self, console: Console, results: Mapping[int, Result]) -> None:
        """Print the leaderboard, the costs, the times to targets, and the statement about chance; write the page."""
        comparison, path = self._tables.comparison(results), self.folder.path
        console.print(_leaderboard(comparison))
        console.print(_costs(comparison))
        for target in comparison.targets:
            console.print(_times(comparison, target))
        for note in self.plan.notes:
            console.print(Text(f"note: {note}"))
        if len(comparison.standings) > 1:
            console.print(Text(comparison.statement))
        for name, what in ((TABLE, "runs"), (CURVES, "curves"), (LEADERBOARD, "leaderboard")):
            say(console, f"{what}: {path / name}")
        if runs := self._tables.runs():
            size = reports.write_report(path / REPORT, runs, extra_sections=[_section(comparison)], title="Comparison")
            say(console, f"report: {path / REPORT} ({reports.size_text(size)}, opens without a network)")
        targets = [("--target", target.metric) for target in comparison.targets]
        check_metrics(comparison.metrics, [("--metric", comparison.metric), *targets])


def _section(comparison: Comparison) -> reports.Section:
    """Return the leaderboard as a section of the page, with the statement about chance below it."""
    heading, rows = comparison.rows()
    better = "more" if comparison.maximize else "less"
    return reports.Section(
        "leaderboard",
        "Leaderboard",
        f"Configs by {comparison.metric.replace('_', ' ')} after the last epoch; {better} is better. Each cell has the "
        f"median and the range over {len(comparison.seeds)} seeds.",
        tables=[reports.Table("Leaderboard", [text.replace("_", " ") for text in heading], rows)],
        notes=[comparison.statement],
    )


def _leaderboard(comparison: Comparison) -> Table:
    metrics = comparison.metrics[:_METRICS]
    over = f"median and range over {count(len(comparison.seeds), 'seed')}"
    table = _table(f"{comparison.metric} {order_text(comparison.maximize)}; {over}", metrics)
    for one in comparison.standings:
        name = f"{one.name}\n{one.finished} of {len(one.scores)} finished"
        _add(table, name, [one.final(metric) for metric in metrics])
    return table


def _costs(comparison: Comparison) -> Table:
    table = _table("what the runs took", ["epochs", "steps", "seconds", "of them in steps"])
    for one in comparison.standings:
        _add(table, one.name, [one.cost(what) for what in ("epoch", "step", "seconds", "step_seconds")])
    return table


def _times(comparison: Comparison, target: Target) -> Table:
    table = _table(f"to {target}", ["reached", "epochs", "steps", "seconds in steps"])
    for one in comparison.standings:
        spreads = [one.until(target, what) for what in ("epoch", "step", "step_seconds")]
        _add(table, one.name, spreads, f"{one.reached(target)} of {len(one.scores)}")
    return table


def _table(title: str, columns: Sequence[str]) -> Table:
    table = titled(title)
    table.box = SIMPLE_HEAD
    table.add_column("config", overflow="fold", max_width=24)
    for name in columns:
        table.add_column(Text(name), justify="right", overflow="fold")
    return table


def _add(table: Table, name: str, spreads: Sequence[Spread], *cells: str) -> None:
    """Add a row: a name, cells of text, and spreads with the median above the range."""
    table.add_row(Text(name), *cells, *map(_cell, spreads))


def _cell(spread: Spread) -> Text:
    if spread.low == spread.high:
        return Text(spread.median_text(6 if spread.low is not None and spread.low.is_integer() else 3))
    digits = 6 if all(value.is_integer() for value in spread.values) else 3
    return Text(f"{spread.median_text(digits)}\n{spread.range_text(digits)}")

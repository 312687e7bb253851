"""`ddn compare`: train several configs of one problem with the same seeds, and rank them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ddn_core import reports
from ddn_core.cli.options import default_folder
from ddn_core.cli.terminal import lines, say
from ddn_core.cli.trials import Report, Running, check_metrics, count, order_text, run_plan, titled
from ddn_core.errors import ArgumentError
from ddn_core.plugins.registry import Registry
from ddn_core.runs.comparison import Comparison, RankedConfig, Spread
from ddn_core.runs.scores import Target
from ddn_core.text import printable
from ddn_core.trials.comparison import CURVES, LEADERBOARD, ComparisonPlan, ComparisonTables, Contest
from ddn_core.trials.folder import TABLE, TrialFolder
from ddn_core.trials.process import Result

REPORT = "report.html"

_METRICS = 3
"""Number of metrics that fit side by side on a narrow terminal."""
_COSTS = {"epochs": "epoch", "steps": "step", "seconds": "seconds", "of them in steps": "step_seconds"}
_TIMES = {"epochs": "epoch", "steps": "step", "seconds in steps": "step_seconds"}


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
        return ComparisonPlan.of(contest, registry), out or default_folder("compare")

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
        metrics, seeds = comparison.metrics[:_METRICS], count(len(comparison.seeds), "seed")
        title = f"{comparison.metric} {order_text(comparison.maximize)}; median and range over {seeds}"
        finals = {metric: partial(RankedConfig.final, metric=metric) for metric in metrics}
        console.print(_table(comparison, title, finals, finished=True))
        costs = {name: partial(RankedConfig.cost, what=what) for name, what in _COSTS.items()}
        console.print(_table(comparison, "cost of the runs", costs))
        for target in comparison.targets:
            times = {name: partial(RankedConfig.until, target=target, what=what) for name, what in _TIMES.items()}
            reached = {"reached": partial(_reached, target=target)}
            console.print(_table(comparison, f"to {target}", {**reached, **times}))
        for note in self.plan.notes:
            console.print(f"note: {note}")
        for one in comparison.ranking:
            if one.diverged:
                console.print(f"{one.name}: {one.diverged_text}", style="red")
        if len(comparison.ranking) > 1:
            console.print(comparison.statement)
        for name, what in ((TABLE, "runs"), (CURVES, "curves"), (LEADERBOARD, "leaderboard")):
            say(console, f"{what}: {path / name}")
        if runs := self._tables.runs(results):
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
        f"median and the range over {len(comparison.seeds)} seeds, without those that diverged.",
        tables=[reports.Table("Leaderboard", [text.replace("_", " ") for text in heading], rows)],
        notes=[comparison.statement],
    )


def _table(
    comparison: Comparison,
    title: str,
    columns: Mapping[str, Callable[[RankedConfig], Spread | str]],
    finished: bool = False,
) -> Table:
    """Return a table with a row for each config; the first cell may say how many of its runs finished."""
    table = titled(title)
    table.box = SIMPLE_HEAD
    table.add_column("config", overflow="fold", max_width=24)
    for name in columns:
        table.add_column(name, justify="right", overflow="fold")
    for one in comparison.ranking:
        head = lines(printable(one.name))
        if finished:
            head.append(f"\n{one.finished} of {len(one.scores)} finished")
        if finished and one.diverged:
            head.append(f"\n{len(one.diverged)} diverged", style="red")
        table.add_row(head, *(_cell(column(one)) for column in columns.values()))
    return table


def _reached(one: RankedConfig, target: Target) -> str:
    return f"{one.reached(target)} of {len(one.scores)}"


def _cell(spread: Spread | str) -> str | Text:
    """Return a cell: text as it is, or the median of a spread above its range."""
    if isinstance(spread, str):
        return spread
    if spread.low == spread.high:
        return spread.median_text(6 if spread.low is not None and spread.low.is_integer() else 3)
    digits = 6 if all(value.is_integer() for value in spread.values) else 3
    return lines(f"{spread.median_text(digits)}\n{spread.range_text(digits)}")

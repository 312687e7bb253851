"""What a sweep shows: a progress bar, a line for each trial that ends, the best combinations."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from ddn_core.cli.sweep.folder import BEST, TABLE, SweepFolder
from ddn_core.cli.sweep.plan import Plan, Trial
from ddn_core.cli.sweep.runner import Ended, Share, Started
from ddn_core.cli.sweep.space import plain
from ddn_core.cli.sweep.table import Standing
from ddn_core.cli.sweep.trial import Result

_ROWS = 10


class SweepDisplay:
    """Shows trials as they start and end."""

    def __init__(self, console: Console, plan: Plan, results: Mapping[int, Result], waiting: int, share: Share) -> None:
        self._console = console
        self._plan = plan
        self._results = results
        self._running = 0
        self._progress = Progress(
            TextColumn("[bold]trials"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[running]} running, {task.fields[failed]} failed"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        total = len(plan.trials)
        self._task = self._progress.add_task("trials", total=total, completed=total - waiting, running=0, failed=0)
        done = f", {total - waiting} of them have ended" if waiting < total else ""
        self._print(f"{total} trials{done}; {share.jobs} at a time, each with {_count(share.threads, 'thread')}")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, event: Started | Ended) -> None:
        """Advance the bar; print a line if a trial has ended."""
        if isinstance(event, Ended):
            self._print(_line(self._plan, event.trial, event.result))
        ran = isinstance(event, Started) or event.result.exit_status is not None
        self._running += (1 if isinstance(event, Started) else -1) if ran else 0
        self._progress.update(
            self._task,
            advance=isinstance(event, Ended),
            running=self._running,
            failed=sum(result.state != "finished" for result in self._results.values()),
        )

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def summarize(
    console: Console,
    folder: SweepFolder,
    plan: Plan,
    results: Mapping[int, Result],
    standings: list[Standing],
    best: Trial | None,
) -> None:
    """Print the trials that failed, the best combinations, and what was written."""
    failed = [trial for trial in plan.trials if trial.number in results and results[trial.number].state != "finished"]
    if failed:
        console.print(_failures(plan, failed, results))
    if standings:
        console.print(_ranking(plan, standings))
    if best is not None:
        text = f"best config: {folder.path / BEST} (trial {best.number}, {plan.label(best)})"
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    console.print(f"all trials: {folder.path / TABLE}", markup=False, highlight=False, soft_wrap=True)


def _ranking(plan: Plan, standings: list[Standing]) -> Table:
    order = "more" if plan.maximize else "less"
    shown = f", the first {_ROWS} of {len(standings)}" if len(standings) > _ROWS else ""
    table = _table(f"{plan.metric} after the last epoch, {order} is better{shown}")
    for path in plan.trials[0].values:
        table.add_column(Text(path), overflow="fold")
    several = plan.seeds > 1
    for name in (f"median {plan.metric}", "range", "seeds") if several else (plan.metric,):
        table.add_column(Text(name), justify="right", no_wrap=True)
    table.add_column("trials" if several else "trial", justify="right")
    for one in standings[:_ROWS]:
        low, high = one.ends
        numbers = [trial.number for trial in one.trials]
        spread = [f"{low:.4g} to {high:.4g}", f"{len(one.measured)} of {len(numbers)}"] if several else []
        span = f"{numbers[0]}-{numbers[-1]}" if several else str(numbers[0])
        values = [Text(plain(value)) for value in one.trials[0].values.values()]
        table.add_row(*values, f"{one.median:.4g}", *spread, span)
    return table


def _failures(plan: Plan, failed: list[Trial], results: Mapping[int, Result]) -> Table:
    table = _table(f"{_count(len(failed), 'trial')} failed")
    for name in ("trial", "values", "how", "error"):
        table.add_column(name, overflow="fold", no_wrap=name == "trial")
    for trial in failed:
        result = results[trial.number]
        table.add_row(str(trial.number), Text(plan.label(trial)), result.state, Text(result.error or ""))
    return table


def _line(plan: Plan, trial: Trial, result: Result) -> str:
    value = result.metrics.get(plan.metric)
    shown = f"no {plan.metric}" if value is None else f"{plan.metric} {value:.4g}"
    text = shown if result.state == "finished" else result.error or ""
    return f"{trial.number:>4}  {result.state:<9} {result.seconds:>7.1f} s  {plan.label(trial)}  {text}"


def _table(title: str) -> Table:
    return Table(title=Text(title), title_justify="left", title_style="bold")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"

"""What is shown of many trials: a progress bar, a line for each that ends, those that failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from ddn_core.cli.trials.plan import Task
from ddn_core.cli.trials.process import Result
from ddn_core.cli.trials.runner import Ended, Share, Started


class TrialsDisplay:
    """Shows trials as they start and end."""

    def __init__(
        self, console: Console, metric: str, total: int, results: Mapping[int, Result], waiting: int, share: Share
    ) -> None:
        self._console = console
        self._metric = metric
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
        self._task = self._progress.add_task("trials", total=total, completed=total - waiting, running=0, failed=0)
        done = f", {total - waiting} of them have ended" if waiting < total else ""
        say(console, f"{total} trials{done}; {share.jobs} at a time, each with {count(share.threads, 'thread')}")

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
            say(self._console, self._line(event.task, event.result))
        ran = isinstance(event, Started) or event.result.exit_status is not None
        self._running += (1 if isinstance(event, Started) else -1) if ran else 0
        self._progress.update(
            self._task,
            advance=isinstance(event, Ended),
            running=self._running,
            failed=sum(result.state != "finished" for result in self._results.values()),
        )

    def _line(self, task: Task, result: Result) -> str:
        value = result.metrics.get(self._metric)
        measured = f"no {self._metric}" if value is None else f"{self._metric} {value:.4g}"
        text = measured if result.state == "finished" else result.error or ""
        return f"{task.number:>4}  {result.state:<9} {result.seconds:>7.1f} s  {task.label}  {text}"


def show_failures(console: Console, tasks: Sequence[Task], results: Mapping[int, Result], heading: str) -> None:
    """Print a table of the trials that failed, if there are any.

    Args:
        console: Where to.
        tasks: All trials.
        results: What became of them.
        heading: What their labels are.
    """
    failed = [task for task in tasks if task.number in results and results[task.number].state != "finished"]
    if not failed:
        return
    table = titled(f"{count(len(failed), 'trial')} failed")
    for name in ("trial", heading, "how", "error"):
        table.add_column(name, overflow="fold", no_wrap=name == "trial")
    for task in failed:
        result = results[task.number]
        table.add_row(str(task.number), Text(task.label), result.state, Text(result.error or ""))
    console.print(table)


def titled(title: str) -> Table:
    """Return a table with a title."""
    return Table(title=Text(title), title_justify="left", title_style="bold")


def say(console: Console, line: str) -> None:
    """Print a line as it is."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def count(number: int, noun: str) -> str:
    """Return a number of things."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"

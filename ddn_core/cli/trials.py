"""The part that `ddn sweep` and `ddn compare` share: run the trials of a plan, show progress, and report at the end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ddn_core.cli.status import INTERRUPTED
from ddn_core.cli.terminal import Terminal, say
from ddn_core.errors import ArgumentError
from ddn_core.plugins.registry import Registry
from ddn_core.text import is_unicode, shortened
from ddn_core.trials.folder import TrialFolder, opened, read_plan
from ddn_core.trials.plan import Task, TrialPlan, trial_config
from ddn_core.trials.process import Result
from ddn_core.trials.runner import Share, run_trials

P = TypeVar("P", bound=TrialPlan)

_ENDED = ("finished", "diverged")
"""States of trials that have nothing to repeat."""
_MOST = 500
"""Number of characters of a label or an error that are printed."""


@dataclass(frozen=True)
class Running:
    """The options about the execution and the ranking of trials; they may differ when a command is resumed."""

    metric: str | None = None
    maximize: bool = False
    jobs: int | None = None
    timeout: float | None = None
    retry_failed: bool = False
    plugins: str | None = None
    allow_diverged: bool = False
    targets: tuple[str, ...] = ()

    def ranked(self, plan: P) -> P:
        """Return a plan with the ranking of these options; an omitted metric or target does not change the plan."""
        changes: dict[str, object] = {"allow_diverged": self.allow_diverged}
        if self.targets:
            changes["targets"] = self.targets
        if self.metric is not None or self.maximize:
            changes["maximize"] = self.maximize
        if self.metric is not None:
            changes["metric"] = self.metric
        return plan.model_copy(update=changes)


class Report(ABC, Generic[P]):
    """The tables about the results of a plan."""

    def __init__(self, folder: TrialFolder, plan: P) -> None:
        self.folder = folder
        self.plan = plan

    @abstractmethod
    def write(self, results: Mapping[int, Result]) -> None:
        """Write the tables to files; called at the beginning, and whenever a trial has ended."""

    @abstractmethod
    def show(self, console: Console, results: Mapping[int, Result]) -> None:
        """Print the tables, when all trials have ended.

        Raises:
            ArgumentError: No trial has the metric.
        """


def run_plan(
    report: type[Report[P]],
    kind: type[P],
    resume: Path | None,
    defined: bool,
    begin: Callable[[], tuple[P, Path]],
    running: Running,
    registry: Registry,
) -> int:
    """Run the trials of a plan that have not ended, report on all of them, and return the exit status.

    Args:
        report: The report of the command.
        kind: The plans of the command.
        resume: The folder of a plan that is to be resumed.
        defined: Whether options define the trials of a new plan.
        begin: Returns the new plan and its folder, if no plan is resumed.
        running: The options about execution and ranking.
        registry: The plugins.

    Raises:
        ArgumentError: An option is wrong, the folder has other contents, or no trial has the metric.
        ConfigError: The config of a trial is wrong.
    """
    if resume is None:
        plan, path = begin()
    else:
        if defined:
            raise ArgumentError(
                f"--resume continues the {kind.noun} in its folder. "
                "Leave out CONFIG, --out, and the options that define new trials."
            )
        stored, path = read_plan(resume, kind), resume
        if stored is None:
            raise ArgumentError(f"--resume: {path} holds no {kind.noun}. Name the folder of a {kind.noun}.")
        plan = stored
    plan = running.ranked(plan)
    for text in _texts(plan.model_dump()):
        if not is_unicode(text):
            raise ArgumentError(f"{text!r} is not UTF-8. The {kind.noun} stores options and names of configs as text.")
    with opened(path, plan, resume is not None) as folder:
        console, made = Terminal(), report(folder, plan)
        results = _run_waiting(console, folder, plan, running, registry, made.write)
        if results is None:
            return INTERRUPTED
        _show_failures(console, plan.tasks(path), results)
        made.show(console, results)
        return 0 if any(result.state == "finished" for result in results.values()) else 1


def check_metrics(names: Iterable[str], wanted: Iterable[tuple[str, str]]) -> None:
    """Check that the trials have the metrics that options name.

    Args:
        names: The metrics of the trials; if there are none, no trial was measured, and nothing is checked.
        wanted: Pairs of an option and the metric that it names.

    Raises:
        ArgumentError: The trials lack a metric.
    """
    there = list(names)
    for option, metric in wanted:
        if there and metric not in there:
            raise ArgumentError(
                f"{option}: no trial has {metric!r}; the trials have {', '.join(there)}. "
                f"All results are kept: use --resume with another {option}."
            )


def order_text(maximize: bool) -> str:
    """Return the direction of a ranking in words."""
    return f"after the last epoch, {'more' if maximize else 'less'} is better"


def titled(title: str) -> Table:
    """Return a table with a title."""
    return Table(title=title, title_justify="left", title_style="bold")


def count(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural if necessary."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _texts(value: object) -> Iterator[str]:
    """Yield all texts in a plan."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


def _run_waiting(
    console: Console,
    folder: TrialFolder,
    plan: TrialPlan,
    running: Running,
    registry: Registry,
    write: Callable[[Mapping[int, Result]], None],
) -> dict[int, Result] | None:
    """Run the trials that have not ended, and return all results; `None` after an interrupt."""
    tasks = plan.tasks(folder.path)
    results = folder.results(plan)
    if running.retry_failed:
        results = {number: result for number, result in results.items() if result.state in _ENDED}
    waiting = [task for task in tasks if task.number not in results]
    configs = [trial_config(task.config, task.overrides, (), registry) for task in waiting]
    share = Share.of(running.jobs, len(waiting), any(config.training.device != "cpu" for config in configs))
    done = f", {len(results)} of them have ended" if results else ""
    say(console, f"{len(tasks)} trials{done}; {share.jobs} at a time, each with {count(share.threads, 'thread')}")
    started: set[int] = set()
    try:
        events = run_trials(folder, waiting, share, plugins=running.plugins, timeout=running.timeout)
        with _progress(console) as progress, closing(events):
            bar = progress.add_task("trials", total=len(tasks), completed=len(results), running=0, failed=0, diverged=0)
            write(results)
            for event in events:
                if event is None:
                    continue
                started.add(event.task.number)
                if event.result is not None:
                    results[event.task.number] = event.result
                    write(results)
                    style = "red" if event.result.state == "diverged" else None
                    say(console, _line(event.task, event.result, plan.metric), style)
                failed = sum(result.state not in _ENDED for result in results.values())
                diverged = sum(result.state == "diverged" for result in results.values())
                under_way = len(started - set(results))
                progress.update(bar, completed=len(results), running=under_way, failed=failed, diverged=diverged)
    except KeyboardInterrupt:
        say(console, f"interrupted; continue with: {plan.command} --resume {folder.path}")
        return None
    return results


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("[bold]trials"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[running]} running, {task.fields[failed]} failed, {task.fields[diverged]} diverged"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )


def _line(task: Task, result: Result, metric: str) -> str:
    value = result.metrics.get(metric)
    measured = f"no {metric}" if value is None else f"{metric} {value:.4g}"
    text = measured if result.state == "finished" else result.end if result.state == "diverged" else result.error or ""
    label = shortened(task.label, _MOST)
    return f"{task.number:>4}  {result.state:<9} {result.seconds:>7.1f} s  {label}  {shortened(text or '', _MOST)}"


def _show_failures(console: Console, tasks: Iterable[Task], results: Mapping[int, Result]) -> None:
    """Print a table of the trials that failed, if there are any."""
    failed = [(task, results[task.number]) for task in tasks if results[task.number].state not in _ENDED]
    if not failed:
        return
    table = titled(f"{count(len(failed), 'trial')} failed")
    for name in ("trial", "run", "how", "error"):
        table.add_column(name, overflow="fold", no_wrap=name == "trial")
    for task, result in failed:
        table.add_row(
            str(task.number), shortened(task.label, _MOST), result.state, shortened(result.error or "", _MOST)
        )
    console.print(table)

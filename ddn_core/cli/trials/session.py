"""From a plan to its results: begin or go on, run what has not ended, tell of an interrupt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rich.console import Console

from ddn_core.cli.trials.display import TrialsDisplay, say
from ddn_core.cli.trials.folder import TrialFolder, check_usable, held, read_plan
from ddn_core.cli.trials.plan import TrialPlan, trial_config
from ddn_core.cli.trials.process import Result
from ddn_core.cli.trials.runner import Ended, Share, run_trials
from ddn_core.errors import ArgumentError
from ddn_core.plugins.registry import Registry

INTERRUPTED = 130
"""Exit status after an interrupt from the keyboard."""

P = TypeVar("P", bound=TrialPlan)


@dataclass(frozen=True)
class Running:
    """The options that say how trials are run and ranked; they may differ when a command goes on."""

    metric: str | None = None
    maximize: bool = False
    jobs: int | None = None
    timeout: float | None = None
    retry_failed: bool = False
    plugins: str | None = None

    def ranked(self, plan: P) -> P:
        """Return a plan with the ranking that is asked for now."""
        if self.metric is not None:
            return plan.model_copy(update={"metric": self.metric, "maximize": self.maximize})
        return plan.model_copy(update={"maximize": True}) if self.maximize else plan


def stored_plan(path: Path, kind: type[P]) -> P:
    """Return the plan in a folder that a command goes on with.

    Raises:
        ArgumentError: There is none.
        ConfigError: It cannot be read.
    """
    plan = read_plan(path, kind)
    if plan is None:
        raise ArgumentError(f"--resume: {path} holds no {kind.noun}")
    return plan


@contextmanager
def begun(path: Path, plan: TrialPlan, resumed: bool) -> Iterator[TrialFolder]:
    """Hold a folder with a plan in it.

    Args:
        path: Where it is.
        plan: The plan.
        resumed: Whether the plan is the one that was read from there.

    Raises:
        ArgumentError: The folder is of something else, cannot be written, or somebody else holds it.
    """
    if not resumed:
        check_usable(path, plan)
    with held(path, plan.noun) as folder:
        if not resumed:
            check_usable(path, plan)  # again: now nobody else can have put a plan there
        folder.begin(plan)
        yield folder


def run_waiting(
    console: Console,
    folder: TrialFolder,
    plan: TrialPlan,
    running: Running,
    registry: Registry,
    write: Callable[[Mapping[int, Result]], None],
) -> tuple[dict[int, Result], bool]:
    """Run the trials that have not ended, and return all results, and whether none is missing.

    Args:
        console: Where progress is shown.
        folder: The folder of the plan.
        plan: The plan.
        running: How trials are run.
        registry: The plugins.
        write: Called with the results at the beginning, and whenever a trial has ended.
    """
    tasks = plan.tasks(folder.path)
    results = folder.results(plan)
    again = {number for number, result in results.items() if running.retry_failed and result.state != "finished"}
    waiting = [task for task in tasks if task.number not in results or task.number in again]
    configs = [trial_config(task.config, task.overrides, (), registry) for task in waiting]
    share = Share.of(running.jobs, len(waiting), any(config.training.device != "cpu" for config in configs))
    for number in again:
        del results[number]
    try:
        events = run_trials(folder, waiting, share, plugins=running.plugins, timeout=running.timeout)
        with (
            TrialsDisplay(console, plan.metric, len(tasks), results, len(waiting), share) as display,
            closing(events),
        ):
            write(results)
            for event in events:
                if isinstance(event, Ended):
                    results[event.task.number] = event.result
                    write(results)
                if event is not None:
                    display.show(event)
    except KeyboardInterrupt:
        say(console, f"stopped; {plan.command} --resume {folder.path} goes on")
        return results, False
    return results, True

"""`ddn sweep`, in order: plan, validate, hold the folder, run what has not ended, rank."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from rich.console import Console

from ddn_core.cli.sweep.display import SweepDisplay, summarize
from ddn_core.cli.sweep.folder import SweepFolder, check_usable, held, read_plan
from ddn_core.cli.sweep.plan import Plan, trial_config
from ddn_core.cli.sweep.runner import Ended, Share, run_trials
from ddn_core.cli.sweep.table import check_metric, ranking, write_best, write_table
from ddn_core.errors import ArgumentError
from ddn_core.plugins.registry import Registry

INTERRUPTED = 130
"""Exit status after an interrupt from the keyboard."""


@dataclass(frozen=True)
class Search:
    """The options that say which trials there are."""

    overrides: Sequence[str] = ()
    grid: Sequence[str] = ()
    ranges: Sequence[str] = ()
    trials: int | None = None
    seed: int | None = None
    seeds: int | None = None


@dataclass(frozen=True)
class Running:
    """The options that say how trials are run and ranked; they may differ when a sweep goes on."""

    metric: str | None = None
    maximize: bool = False
    jobs: int | None = None
    timeout: float | None = None
    retry_failed: bool = False
    plugins: str | None = None


def sweep(
    config: Path | None, resume: Path | None, out: Path | None, search: Search, running: Running, registry: Registry
) -> int:
    """Run a sweep, or what is left of one, and return the exit status.

    Raises:
        ArgumentError: An option is wrong, the folder is of another sweep, or no trial has the metric.
        ConfigError: The config of a trial is wrong.
    """
    if resume is not None:
        if config is not None or out is not None or search != Search():
            raise ArgumentError(
                "--resume goes on with what is in its folder: leave CONFIG out, and what says the trials"
            )
        plan, path = _stored(resume), resume
    elif config is not None:
        plan = _planned(config, search, running, registry)
        path = out or Path("runs") / f"sweep-{config.stem}-{datetime.now():%Y%m%d-%H%M%S}"
        check_usable(path, plan)
    else:
        raise ArgumentError("name a CONFIG, or a folder with --resume")
    if running.metric is not None:
        plan = plan.model_copy(update={"metric": running.metric, "maximize": running.maximize})
    elif running.maximize:
        plan = plan.model_copy(update={"maximize": True})
    with held(path) as folder:
        if resume is None:
            check_usable(path, plan)  # again: now nobody else can have put a plan there
        folder.begin(plan)
        return _run(folder, plan, running, registry)


def _run(folder: SweepFolder, plan: Plan, running: Running, registry: Registry) -> int:
    console = Console()
    results = folder.results(plan)
    again = {number for number, result in results.items() if running.retry_failed and result.state != "finished"}
    waiting = [trial for trial in plan.trials if trial.number not in results or trial.number in again]
    configs = [trial_config(folder.config(plan), plan.overrides_of(trial), (), registry) for trial in waiting]
    on_gpu = any(config.training.device != "cpu" for config in configs)
    share = Share.of(running.jobs, len(waiting), on_gpu)
    for number in again:
        del results[number]
    try:
        events = run_trials(folder, plan, waiting, share, plugins=running.plugins, timeout=running.timeout)
        with SweepDisplay(console, plan, results, len(waiting), share) as display, closing(events):
            write_table(folder, plan, results)
            for event in events:
                if isinstance(event, Ended):
                    results[event.trial.number] = event.result
                    write_table(folder, plan, results)
                if event is not None:
                    display.show(event)
    except KeyboardInterrupt:
        console.print(f"stopped; ddn sweep --resume {folder.path} goes on", markup=False, highlight=False)
        return INTERRUPTED
    standings = ranking(plan, results)
    best = write_best(folder, standings)
    summarize(console, folder, plan, results, standings, best)
    check_metric(plan, results)
    return 0 if any(result.state == "finished" for result in results.values()) else 1


def _stored(path: Path) -> Plan:
    plan = read_plan(path)
    if plan is None:
        raise ArgumentError(f"--resume: {path} holds no sweep")
    return plan


def _planned(config: Path, search: Search, running: Running, registry: Registry) -> Plan:
    if search.trials is None and search.seed is not None:
        raise ArgumentError("--seed is the seed of random search: give --trials too")
    return Plan.of(
        config,
        registry=registry,
        overrides=search.overrides,
        grid=search.grid,
        ranges=search.ranges,
        drawn=search.trials,
        seed=search.seed or 0,
        seeds=search.seeds or 1,
        metric=running.metric or "train_loss",
        maximize=running.maximize,
    )

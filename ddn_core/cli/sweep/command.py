"""`ddn sweep`, in order: plan, validate, hold the folder, run what has not ended, rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from rich.console import Console

from ddn_core.cli.sweep.display import summarize
from ddn_core.cli.sweep.plan import Plan
from ddn_core.cli.sweep.table import check_metric, ranking, write_best, write_table
from ddn_core.cli.trials.session import INTERRUPTED, Running, begun, run_waiting, stored_plan
from ddn_core.errors import ArgumentError
from ddn_core.plugins.registry import Registry


@dataclass(frozen=True)
class Search:
    """The options that say which trials there are."""

    overrides: Sequence[str] = ()
    grid: Sequence[str] = ()
    ranges: Sequence[str] = ()
    trials: int | None = None
    seed: int | None = None
    seeds: int | None = None


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
        plan, path = stored_plan(resume, Plan), resume
    elif config is not None:
        plan = _planned(config, search, running, registry)
        path = out or Path("runs") / f"sweep-{config.stem}-{datetime.now():%Y%m%d-%H%M%S}"
    else:
        raise ArgumentError("name a CONFIG, or a folder with --resume")
    plan = running.ranked(plan)
    with begun(path, plan, resume is not None) as folder:
        console = Console()
        results, complete = run_waiting(console, folder, plan, running, registry, partial(write_table, folder, plan))
        if not complete:
            return INTERRUPTED
        standings = ranking(plan, results)
        best = write_best(folder, plan, standings)
        summarize(console, folder, plan, results, standings, best)
        check_metric(plan, results)
        return 0 if any(result.state == "finished" for result in results.values()) else 1


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

"""`ddn sweep`: train one config with many values, and rank the combinations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ddn_core.cli.options import default_folder
from ddn_core.cli.terminal import lines, say
from ddn_core.cli.trials import Report, Running, check_metrics, order_text, run_plan, titled
from ddn_core.errors import ArgumentError
from ddn_core.plugins.registry import Registry
from ddn_core.runs.scores import distinct
from ddn_core.trials.folder import TABLE
from ddn_core.trials.process import Result
from ddn_core.trials.space import plain
from ddn_core.trials.sweep import (
    BEST,
    Combination,
    Search,
    SweepPlan,
    ranking,
    write_best,
    write_trials,
)

_ROWS = 10
"""Number of combinations that are printed."""


def sweep(
    config: Path | None, resume: Path | None, out: Path | None, search: Search, running: Running, registry: Registry
) -> int:
    """Run a sweep, or the rest of one, and return the exit status.

    Raises:
        ArgumentError: An option is wrong, the folder is of another sweep, or no trial has the metric.
        ConfigError: The config of a trial is wrong.
    """

    def begin() -> tuple[SweepPlan, Path]:
        if config is None:
            raise ArgumentError("name a CONFIG, or a folder with --resume")
        return SweepPlan.of(config, search, registry), out or default_folder(f"sweep-{config.stem}")

    defined = config is not None or out is not None or search != Search()
    return run_plan(SweepReport, SweepPlan, resume, defined, begin, running, registry)


class SweepReport(Report[SweepPlan]):
    """The tables of a sweep: all trials, the best combinations, the best config."""

    def write(self, results: Mapping[int, Result]) -> None:
        """Write a row for each trial."""
        write_trials(self.folder, self.plan, results)

    def show(self, console: Console, results: Mapping[int, Result]) -> None:
        """Write the best config, and print the best combinations and the paths of the files."""
        ranked = ranking(self.plan, results)
        best = write_best(self.folder, self.plan, ranked)
        if ranked:
            console.print(_table(self.plan, ranked))
        if best is not None:
            say(console, f"best config: {self.folder.path / BEST} (trial {best.number}, {self.plan.label(best)})")
        elif ranked and ranked[0].first is not None and ranked[0].diverged:
            advice = "--resume with --allow-diverged ranks them by their other seeds"
            say(console, f"no best config: every combination has a seed that diverged; {advice}", "red")
        elif ranked and ranked[0].diverged:
            say(console, "no best config: all trials diverged or failed", "red")
        say(console, f"all trials: {self.folder.path / TABLE}")
        check_metrics(distinct(results[number].metrics for number in sorted(results)), [("--metric", self.plan.metric)])


def _table(plan: SweepPlan, ranked: list[Combination]) -> Table:
    shown = f", the first {_ROWS} of {len(ranked)}" if len(ranked) > _ROWS else ""
    table = titled(f"{plan.metric} {order_text(plan.maximize)}{shown}")
    for path in plan.trials[0].values:
        table.add_column(path, overflow="fold")
    several, any_diverged = plan.seeds > 1, any(one.diverged for one in ranked)
    for name in (f"median {plan.metric}", "range", "seeds") if several else (plan.metric,):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("trials" if several else "trial", justify="right")
    if any_diverged:
        table.add_column("diverged", style="red", no_wrap=True)
    for one in ranked[:_ROWS]:
        spread, numbers = one.spread, [trial.number for trial in one.trials]
        extent = "-" if spread.low is None else f"{spread.low:.4g} to {spread.high:.4g}"
        ends = [extent, f"{len(spread.values)} of {spread.seeds}"] if several else []
        span = f"{numbers[0]}-{numbers[-1]}" if several else str(numbers[0])
        values = [plain(value) for value in one.trials[0].values.values()]
        steps = [f"at step {step}{f', seed {trial.seed}' if several else ''}" for trial, step in one.diverged.items()]
        diverged = [lines("\n".join(steps))] if any_diverged else []
        table.add_row(*values, spread.median_text(4), *ends, span, *diverged)
    return table

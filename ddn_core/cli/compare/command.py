"""`ddn compare`, in order: plan, validate, hold the folder, run what has not ended, compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from rich.console import Console

from ddn_core.cli.compare.display import show_comparison
from ddn_core.cli.compare.plan import Plan
from ddn_core.cli.compare.report import REPORT, write_comparison
from ddn_core.cli.compare.scores import Scores
from ddn_core.cli.compare.table import CURVES, LEADERBOARD, write_curves, write_leaderboard, write_results
from ddn_core.cli.trials.display import say, show_failures
from ddn_core.cli.trials.folder import TABLE, TrialFolder
from ddn_core.cli.trials.process import Result
from ddn_core.cli.trials.session import INTERRUPTED, Running, begun, run_waiting, stored_plan
from ddn_core.errors import ArgumentError
from ddn_core.plugins.registry import Registry
from ddn_core.reports import check_installed, size_text
from ddn_core.runs.comparison import Comparison
from ddn_core.runs.scores import Target


@dataclass(frozen=True)
class Contest:
    """The options that say which trials there are."""

    configs: Sequence[Path] = ()
    overrides: Sequence[str] = ()
    seeds: int | None = None


def compare(
    contest: Contest,
    resume: Path | None,
    out: Path | None,
    targets: Sequence[str],
    running: Running,
    registry: Registry,
) -> int:
    """Run a comparison, or what is left of one, and return the exit status.

    Raises:
        ArgumentError: An option is wrong, problems differ, the folder is of another comparison, or no run has the
            metric.
        ConfigError: The config of a trial is wrong.
    """
    check_installed()
    wanted = [str(Target.of_text(text)) for text in targets]
    if resume is not None:
        if out is not None or contest != Contest():
            raise ArgumentError(
                "--resume goes on with what is in its folder: leave CONFIG, --seeds, --set and --out out"
            )
        plan, path = stored_plan(resume, Plan), resume
    elif contest.configs:
        plan = Plan.of(contest.configs, registry=registry, overrides=contest.overrides, seeds=contest.seeds or 5)
        path = out or Path("runs") / f"compare-{datetime.now():%Y%m%d-%H%M%S}"
    else:
        raise ArgumentError("name the CONFIGs to compare, or a folder with --resume")
    plan = running.ranked(plan)
    if wanted:
        plan = plan.model_copy(update={"targets": tuple(wanted)})
    with begun(path, plan, resume is not None) as folder:
        return _run(folder, plan, running, registry)


def _run(folder: TrialFolder, plan: Plan, running: Running, registry: Registry) -> int:
    console = Console()
    scores = Scores(folder.path, plan)

    def write(results: Mapping[int, Result]) -> None:
        write_results(folder.path, plan, results, scores.comparison(results))

    results, complete = run_waiting(console, folder, plan, running, registry, write)
    comparison = scores.comparison(results)
    write_curves(folder.path, plan, comparison)
    write_leaderboard(folder.path, plan, comparison)
    if not complete:
        return INTERRUPTED
    show_failures(console, plan.tasks(folder.path), results, "run")
    show_comparison(console, plan, comparison)
    for name, what in ((TABLE, "runs"), (CURVES, "curves"), (LEADERBOARD, "leaderboard")):
        say(console, f"{what}: {folder.path / name}")
    if size := write_comparison(folder.path, plan, comparison):
        say(console, f"report: {folder.path / REPORT} ({size_text(size)}, opens without a network)")
    _check_names(comparison)
    return 0 if any(result.state == "finished" for result in results.values()) else 1


def _check_names(comparison: Comparison) -> None:
    """Say whether the runs have what they are ranked by, and what is to be reached."""
    names = comparison.metrics
    for option, metric in [("--metric", comparison.metric), *(("--target", one.metric) for one in comparison.targets)]:
        if names and metric not in names:
            raise ArgumentError(
                f"{option}: no run has {metric!r}; there are {', '.join(names)}. "
                f"What has run is kept: --resume with another {option} compares it."
            )

"""What came out of a sweep: a table of all trials, a ranking of the combinations, the best config."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from ddn_core.cli.sweep.plan import Plan, Trial
from ddn_core.cli.sweep.space import plain
from ddn_core.cli.trials.folder import TABLE, TrialFolder, write_atomically
from ddn_core.cli.trials.process import Result
from ddn_core.errors import ArgumentError
from ddn_core.runs.record import CONFIG

BEST = "best.json"


@dataclass(frozen=True)
class Standing:
    """A combination of values, with the metric of its trials.

    Attributes:
        trials: Its trials, one for each seed.
        measured: Metric by number of trial, of those that finished with a finite one.
    """

    trials: tuple[Trial, ...]
    measured: Mapping[int, float]

    @property
    def complete(self) -> bool:
        """Whether every seed has a metric."""
        return len(self.measured) == len(self.trials)

    @property
    def median(self) -> float:
        """The median over the seeds."""
        return statistics.median(self.measured.values())

    @property
    def ends(self) -> tuple[float, float]:
        """The smallest and the largest over the seeds."""
        return min(self.measured.values()), max(self.measured.values())


def ranking(plan: Plan, results: Mapping[int, Result]) -> list[Standing]:
    """Return the combinations that have a metric, the best first; those that lack it for a seed come last."""
    points: dict[int, list[Trial]] = {}
    for trial in plan.trials:
        points.setdefault(trial.point, []).append(trial)
    standings = []
    for trials in points.values():
        values = {trial.number: _metric(plan, results.get(trial.number)) for trial in trials}
        measured = {number: value for number, value in values.items() if value is not None}
        if measured:
            standings.append(Standing(tuple(trials), measured))
    sign = -1 if plan.maximize else 1
    return sorted(standings, key=lambda one: (not one.complete, sign * one.median))


def check_metric(plan: Plan, results: Mapping[int, Result]) -> None:
    """Say whether the trials that finished have the metric that they are ranked by.

    Raises:
        ArgumentError: None of them has.
    """
    names = metric_names(results)
    finished = any(result.state == "finished" for result in results.values())
    if finished and plan.metric not in names:
        raise ArgumentError(
            f"--metric: no trial has {plan.metric!r}; there are {', '.join(names)}. "
            "What has run is kept: --resume with another --metric ranks it."
        )


def metric_names(results: Mapping[int, Result]) -> list[str]:
    """Return the names of all metrics, in order of appearance."""
    return list(dict.fromkeys(name for number in sorted(results) for name in results[number].metrics))


def write_table(folder: TrialFolder, plan: Plan, results: Mapping[int, Result]) -> None:
    """Write all trials with what came out as CSV, one trial a row."""
    metrics = metric_names(results)
    paths = [path for trial in plan.trials[:1] for path in trial.values]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(
        [
            "trial",
            "combination",
            *paths,
            "seed",
            "state",
            *metrics,
            "epochs",
            "steps",
            "seconds",
            "exit_status",
            "error",
        ]
    )
    for trial in plan.trials:
        row = [trial.number, trial.point, *map(plain, trial.values.values()), trial.seed]
        result = results.get(trial.number)
        if result is None:
            row += ["waiting", *[""] * (len(metrics) + 5)]
        else:
            row += [result.state, *("" if (x := result.metrics.get(name)) is None else repr(x) for name in metrics)]
            row += [result.epochs, result.steps, result.seconds]
            row += ["" if result.exit_status is None else result.exit_status, result.error or ""]
        table.writerow(row)
    write_atomically(folder.path / TABLE, text.getvalue())


def write_best(folder: TrialFolder, plan: Plan, standings: list[Standing]) -> Trial | None:
    """Write the config of the best combination, with its first seed that has a metric, and return its trial."""
    (folder.path / BEST).unlink(missing_ok=True)  # what another metric had chosen
    if not standings:
        return None
    best = next(trial for trial in standings[0].trials if trial.number in standings[0].measured)
    try:
        resolved = (plan.tasks(folder.path)[best.number].run / CONFIG).read_text(encoding="utf-8")
    except FileNotFoundError:  # its run was removed, which anyone may do once it has a result
        return None
    write_atomically(folder.path / BEST, resolved)
    return best


def _metric(plan: Plan, result: Result | None) -> float | None:
    if result is None or result.state != "finished":
        return None
    value = result.metrics.get(plan.metric)
    return value if value is not None and math.isfinite(value) else None

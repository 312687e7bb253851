"""What is written of a comparison: a row for each run, a row for each evaluation, the leaderboard."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ddn_core.cli.compare.plan import Plan
from ddn_core.cli.trials.folder import TABLE, write_atomically
from ddn_core.cli.trials.process import Result
from ddn_core.runs.comparison import Comparison, Standing
from ddn_core.runs.events import EvaluationEvent
from ddn_core.runs.scores import Score, Target, finite, is_loss, values_of

CURVES = "curves.csv"
LEADERBOARD = "leaderboard.json"
COSTS = {"epochs": "epoch", "steps": "step", "seconds": "seconds", "step_seconds": "step_seconds"}
"""What a run costs: name of the column, and the field of an evaluation that has it."""


def write_results(path: Path, plan: Plan, results: Mapping[int, Result], comparison: Comparison) -> None:
    """Write a row for each run, with its last and its best values, and when it reached each target."""
    metrics = sorted(comparison.metrics)
    heading = ["config", "seed", "state", *COSTS]
    heading += [f"{kind}_{metric}" for metric in metrics for kind in ("final", "best", "best_epoch")]
    heading += [f"{cost} to {target}" for target in comparison.targets for cost in COSTS]
    rows = []
    for number, (name, seed) in enumerate(plan.trials):
        result, score = results.get(number), _standing(comparison, name).scores.get(seed)
        row: list[Any] = [name, seed, "waiting" if result is None else result.state]
        row += _costs(score.evaluations[-1] if score is not None and score.evaluations else None)
        for metric in metrics:
            upwards = comparison.maximize if metric == comparison.metric else not is_loss(metric)
            row += _values(score, metric, upwards)
        for target in comparison.targets:
            row += _costs(None if score is None else score.reached(target))
        exit_status = None if result is None else result.exit_status
        rows.append([*row, exit_status, None if result is None else result.error])
    _write_csv(path / TABLE, [*heading, "exit_status", "error"], rows)


def write_curves(path: Path, plan: Plan, comparison: Comparison) -> None:
    """Write a row for each evaluation of each run that has ended."""
    metrics = sorted(comparison.metrics)
    rows: list[list[Any]] = []
    for name, seed in plan.trials:
        score = _standing(comparison, name).scores.get(seed)
        for event in () if score is None else score.evaluations:
            values = values_of(event)
            cost = [event.epoch, event.step, event.seconds, event.step_seconds, event.ends_epoch]
            rows.append([name, seed, *cost, *(finite(values.get(metric)) for metric in metrics)])
    heading = ["config", "seed", "epoch", "step", "seconds", "step_seconds", "ends_epoch", *metrics]
    _write_csv(path / CURVES, heading, rows)


def write_leaderboard(path: Path, plan: Plan, comparison: Comparison) -> None:
    """Write the leaderboard: medians and ranges over seeds, pairings, and what they say."""
    table = {
        "metric": comparison.metric,
        "maximize": comparison.maximize,
        "seeds": list(comparison.seeds),
        "notes": list(plan.notes),
        "standings": [_table(one, comparison) for one in comparison.standings],
        "pairings": [asdict(one) for one in comparison.pairings],
        "statement": comparison.statement,
    }
    write_atomically(path / LEADERBOARD, json.dumps(table, indent=2, allow_nan=False) + "\n")


def _table(one: Standing, comparison: Comparison) -> dict[str, Any]:
    def reached(target: Target) -> dict[str, Any]:
        costs = {cost: one.until(target, what).table() for cost, what in COSTS.items()}
        return {"reached": one.reached(target), **costs}

    def ranked(metric: str) -> bool | None:
        return comparison.maximize if metric == comparison.metric else None

    return {
        "config": one.name,
        "finished": one.finished,
        "final": {metric: one.final(metric).table() for metric in comparison.metrics},
        "best": {metric: one.best(metric, ranked(metric)).table() for metric in comparison.metrics},
        "best_epoch": {metric: one.best_epoch(metric, ranked(metric)).table() for metric in comparison.metrics},
        "cost": {cost: one.cost(what).table() for cost, what in COSTS.items()},
        "targets": {str(target): reached(target) for target in comparison.targets},
    }


def _standing(comparison: Comparison, name: str) -> Standing:
    return next(one for one in comparison.standings if one.name == name)


def _costs(event: EvaluationEvent | None) -> list[Any]:
    return [None if event is None else getattr(event, what) for what in COSTS.values()]


def _values(score: Score | None, metric: str, upwards: bool) -> list[Any]:
    """Return the last value, the best and its epoch; of a run that did not finish too, but for the last value."""
    best = None if score is None else score.best(metric, upwards)
    final = None if score is None else score.final(metric)
    return [final, *((None, None) if best is None else (values_of(best)[metric], best.epoch))]


def _write_csv(path: Path, heading: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(heading)
    for row in rows:
        table.writerow(["" if x is None else repr(x) if isinstance(x, float) else x for x in row])
    write_atomically(path, text.getvalue())

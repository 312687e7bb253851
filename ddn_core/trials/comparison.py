"""`ddn compare`: the plan of its trials, the comparison of the runs that have ended, and its tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from ddn_core.config import Config
from ddn_core.errors import ArgumentError
from ddn_core.files import write_atomically
from ddn_core.plugins.registry import Registry
from ddn_core.runs.comparison import Comparison, RankedConfig
from ddn_core.runs.events import EvaluationEvent
from ddn_core.runs.record import CONFIG, RunRecord
from ddn_core.runs.scores import Score, Target, finite, values_of
from ddn_core.tables import Row, csv_text
from ddn_core.trials.folder import TABLE, TrialFolder
from ddn_core.trials.plan import MOST, SEED, TRIALS, Source, Task, TrialPlan, check_size, option_text, trial_config
from ddn_core.trials.process import Result

CONFIGS = "configs"
RUNS = "runs"
CURVES = "curves.csv"
LEADERBOARD = "leaderboard.json"

_COSTS = {"epochs": "epoch", "steps": "step", "seconds": "seconds", "step_seconds": "step_seconds"}
"""Columns for the cost of a run, with the field of an evaluation that each shows."""
_EVALUATION = ("epoch", "step", "seconds", "step_seconds", "ends_epoch")
"""Fields of an evaluation that are columns of its row."""
_LOADING = ("batch_size",)
"""Fields of a problem that say how its data is loaded, and leave the problem the same."""


@dataclass(frozen=True)
class Contest:
    """The options that define the trials of a comparison, as the user gave them."""

    configs: Sequence[Path] = ()
    overrides: Sequence[str] = ()
    seeds: int | None = None


class ComparisonPlan(TrialPlan):
    """The trials of a comparison, and the metric that ranks the configs.

    Attributes:
        version: Version of this format.
        entries: The configs.
        targets: The targets whose time is measured, as text.
        notes: The differences between the configs, other than the optimizer, that affect the comparison.
    """

    file: ClassVar[str] = "comparison.json"
    noun: ClassVar[str] = "comparison"
    command: ClassVar[str] = "ddn compare"
    options: ClassVar[Mapping[str, str]] = {"overrides": "--set", "seed": "the first seed", "seeds": "--seeds"}

    version: Literal[1] = 1
    entries: tuple[Source, ...] = Field(min_length=1)
    targets: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @field_validator("entries")
    @classmethod
    def _check_entries(cls, entries: tuple[Source, ...]) -> tuple[Source, ...]:
        if len({entry.name for entry in entries}) < len(entries):
            raise PydanticCustomError("entries", "Input should be configs with different names")
        return entries

    @field_validator("targets")
    @classmethod
    def _check_targets(cls, targets: tuple[str, ...]) -> tuple[str, ...]:
        for text in targets:
            Target.of_text(text)  # raises a ValueError
        return targets

    @model_validator(mode="after")
    def _check_size(self) -> Self:
        if len(self.entries) * self.seeds > MOST:
            raise PydanticCustomError("trials", f"Input should be a plan of at most {MOST} trials")
        return self

    @classmethod
    def of(cls, contest: Contest, registry: Registry) -> ComparisonPlan:
        """Return the plan that options describe, with the config of every trial validated.

        Raises:
            ArgumentError: The problems differ.
            ConfigError: The config of a trial is wrong.
        """
        configs, overrides, seeds = contest.configs, tuple(contest.overrides), contest.seeds or 5
        check_size(len(configs) * seeds, f"--seeds {seeds}")
        loaded = [trial_config(path, overrides, (), registry) for path in configs]
        first = loaded[0].training.seed
        for path in configs:
            for seed in range(first, first + seeds):
                trial_config(path, overrides, (f"{SEED}={seed}",), registry)
        names = _names(configs)
        _check_alike(names, loaded)
        entries = tuple(map(Source.of_file, names, configs))
        return cls(entries=entries, overrides=overrides, seed=first, seeds=seeds, notes=tuple(_notes(names, loaded)))

    @property
    def trials(self) -> list[tuple[str, int]]:
        """Config name and seed of every trial. All configs run a seed before the next, so that pairs end together."""
        return [(entry.name, self.seed + index) for index in range(self.seeds) for entry in self.entries]

    @property
    def sources(self) -> Mapping[str, Source]:
        """The configs, by their path in the folder."""
        return {entry.place(f"{CONFIGS}/{entry.name}"): entry for entry in self.entries}

    def tasks(self, folder: Path) -> list[Task]:
        """Return the trials in their order, as tasks in a folder; those that were cut off continue."""
        paths = {entry.name: folder / path for path, entry in self.sources.items()}
        return [
            Task(
                number=number,
                label=f"{name} seed {seed}",
                place=folder / TRIALS / name / f"seed-{seed}",
                run=folder / RUNS / name / f"seed-{seed}",
                config=paths[name],
                overrides=(*self.overrides, f"{SEED}={seed}"),
                resumes=True,
            )
            for number, (name, seed) in enumerate(self.trials)
        ]


class ComparisonTables:
    """The comparison of the runs that have ended, and its tables. Each run is read once."""

    def __init__(self, folder: TrialFolder, plan: ComparisonPlan) -> None:
        self._path = folder.path
        self._plan = plan
        self._tasks = plan.tasks(folder.path)
        self._read: dict[int, tuple[Result, Score | None]] = {}

    def comparison(self, results: Mapping[int, Result]) -> Comparison:
        """Return the comparison of the runs that have ended."""
        found: dict[str, dict[int, Score]] = {entry.name: {} for entry in self._plan.entries}
        for task, (name, seed) in zip(self._tasks, self._plan.trials, strict=True):
            if task.number in results and (score := self._score(task, results[task.number])) is not None:
                found[name][seed] = score
        return Comparison.of_scores(
            found,
            [Target.of_text(text) for text in self._plan.targets],
            metric=self._plan.metric,
            maximize=self._plan.maximize,
            seeds=range(self._plan.seed, self._plan.seed + self._plan.seeds),
            allow_diverged=self._plan.allow_diverged,
        )

    def write(self, results: Mapping[int, Result]) -> None:
        """Write a row for each run, a row for each evaluation, and the leaderboard."""
        comparison = self.comparison(results)
        scores = {one.name: one.scores for one in comparison.ranking}
        metrics = sorted(comparison.metrics)
        rows: list[Row] = []
        curves: list[Row] = []
        for number, (name, seed) in enumerate(self._plan.trials):
            score = scores[name][seed]
            rows.append({"config": name, "seed": seed, **_row(results.get(number), score, metrics, comparison)})
            curves += [
                {"config": name, "seed": seed, **_point(event, metrics)}
                for event in (score.evaluations if score else ())
            ]
        board = json.dumps(leaderboard(comparison, self._plan.notes), indent=2, allow_nan=False) + "\n"
        for file, text in (
            (TABLE, csv_text(rows)),
            (CURVES, csv_text(curves, ["config", "seed", *_EVALUATION, *metrics])),
            (LEADERBOARD, board),
        ):
            write_atomically(self._path / file, text.encode())

    def runs(self, results: Mapping[int, Result]) -> list[RunRecord]:
        """Return the runs that have begun, each with the name of its config."""
        pairs = zip(self._tasks, self._plan.trials, strict=True)
        found = [_record(task, results.get(task.number), name) for task, (name, _) in pairs]
        return [record for record in found if record is not None]

    def _score(self, task: Task, result: Result) -> Score | None:
        known = self._read.get(task.number)
        if known is None or known[0] is not result:
            record = _record(task, result)
            known = self._read[task.number] = result, None if record is None else Score.of(record)
        return known[1]


def _record(task: Task, result: Result | None, name: str | None = None) -> RunRecord | None:
    """Return the run of a trial; `None` if the run was removed, or if the trial failed and its run is unreadable.

    Raises:
        ArgumentError: The trial did not fail, and its run cannot be read.
    """
    if not (task.run / CONFIG).exists():
        return None
    try:
        return RunRecord.read(task.run, name)
    except ArgumentError:
        if result is not None and result.state == "failed":
            return None
        raise


def _row(result: Result | None, score: Score | None, metrics: Sequence[str], comparison: Comparison) -> Row:
    """Return the outcome of a run: last and best values, and the cost until each target."""
    row: dict[str, str | int | float | None] = {"state": "waiting" if result is None else result.state}
    row |= _costs(score.evaluations[-1] if score is not None and score.evaluations else None)
    for metric in metrics:
        best = None if score is None else score.best(metric, comparison.maximizes(metric))
        row[f"final_{metric}"] = None if score is None else score.final(metric)
        row[f"best_{metric}"] = None if best is None else values_of(best)[metric]
        row[f"best_epoch_{metric}"] = None if best is None else best.epoch
    for target in comparison.targets:
        costs = _costs(None if score is None else score.reached(target))
        row |= {f"{cost} to {target}": value for cost, value in costs.items()}
    return row | {name: getattr(result, name, None) for name in ("diverged_at", "end", "exit_status", "error")}


def _costs(event: EvaluationEvent | None) -> dict[str, int | float | None]:
    return {name: None if event is None else getattr(event, field) for name, field in _COSTS.items()}


def _point(event: EvaluationEvent, metrics: Sequence[str]) -> Row:
    """Return the row of an evaluation."""
    values = values_of(event)
    return {
        **{name: getattr(event, name) for name in _EVALUATION},
        **{name: finite(values.get(name)) for name in metrics},
    }


def leaderboard(comparison: Comparison, notes: Sequence[str]) -> dict[str, Any]:
    """Return the leaderboard as plain data: medians and ranges over seeds, pairings, and the statement about chance."""
    return {
        "metric": comparison.metric,
        "maximize": comparison.maximize,
        "seeds": list(comparison.seeds),
        "notes": list(notes),
        "standings": [_ranked_table(one, comparison) for one in comparison.ranking],
        "pairings": [asdict(one) for one in comparison.pairings],
        "statement": comparison.statement,
    }


def _ranked_table(one: RankedConfig, comparison: Comparison) -> dict[str, Any]:
    def reached(target: Target) -> dict[str, Any]:
        return {"reached": one.reached(target), **{cost: one.until(target, of).table() for cost, of in _COSTS.items()}}

    return {
        "config": one.name,
        "finished": one.finished,
        "diverged": {str(seed): step for seed, step in one.diverged.items()},
        "final": {metric: one.final(metric).table() for metric in comparison.metrics},
        "best": {metric: one.best(metric, comparison.maximizes(metric)).table() for metric in comparison.metrics},
        "best_epoch": {
            metric: one.best_epoch(metric, comparison.maximizes(metric)).table() for metric in comparison.metrics
        },
        "cost": {cost: one.cost(of).table() for cost, of in _COSTS.items()},
        "targets": {str(target): reached(target) for target in comparison.targets},
    }


def _names(configs: Sequence[Path]) -> list[str]:
    """Return the names of files without their endings, with a number after a name that another file has, too."""
    names: list[str] = []
    stems = {path.stem for path in configs}
    for path in configs:
        others = (name for number in count(2) if (name := f"{path.stem}-{number}") not in stems)
        names.append(path.stem if path.stem not in names else next(name for name in others if name not in names))
    return names


def _check_alike(names: Sequence[str], configs: Sequence[Config]) -> None:
    """Raise `ArgumentError` if the configs have different problems."""
    first, *others = [_problem(config) for config in configs]
    lines = [
        f"{name}: problem.{field}: {_value(other, field)}, but {_value(first, field)} in {names[0]}"
        for name, other in zip(names[1:], others, strict=True)
        for field in dict.fromkeys([*first, *other])
        if field not in _LOADING and first.get(field) != other.get(field)
    ]
    if lines:
        head = "these configs have different problems, whose results cannot be compared:"
        raise ArgumentError("\n".join([head, *(f"  {line}" for line in lines)]))


def _notes(names: Sequence[str], configs: Sequence[Config]) -> list[str]:
    """Return a line for each difference between the configs, other than the optimizer, that affects the comparison."""
    if len(configs) == 1:
        return ["there is only one config, and nothing to compare it with"]
    notes = []
    for field, what in (
        ("batch_size", "batch sizes differ, and so does the order of the data"),
        ("epochs", "numbers of epochs differ: values after the last epoch have different budgets"),
        ("evaluate_every", "evaluate_every differs: train_loss is the mean since the last evaluation"),
        ("dtype", "dtypes differ"),
        ("device", "devices differ"),
    ):
        places = [_problem(config) if field in _LOADING else config.training.model_dump() for config in configs]
        values = [place.get(field) for place in places]
        if any(value != values[0] for value in values):
            listed = ", ".join(f"{name} {option_text(value)}" for name, value in zip(names, values, strict=True))
            notes.append(f"{what} ({listed})")
    return notes


def _problem(config: Config) -> dict[str, Any]:
    return {} if config.problem is None else config.problem.table()


def _value(problem: Mapping[str, Any], field: str) -> str:
    return repr(problem[field]) if field in problem else "missing"

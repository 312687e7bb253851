"""`ddn sweep`: the plan of its trials, the ranking of the combinations, the table of all trials, the best config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

from ddn_core.errors import ArgumentError
from ddn_core.files import write_atomically
from ddn_core.foreign import Count, Integer, Name
from ddn_core.plugins.registry import Registry
from ddn_core.runs.comparison import Spread
from ddn_core.runs.record import CONFIG
from ddn_core.runs.scores import distinct
from ddn_core.tables import Row, csv_text
from ddn_core.trials.folder import TABLE, TrialFolder
from ddn_core.trials.plan import MOST, SEED, TRIALS, Source, Task, TrialPlan, check_size, trial_config
from ddn_core.trials.process import Result
from ddn_core.trials.space import combinations, dimensions, is_assignment, plain

BEST = "best.json"


@dataclass(frozen=True)
class Search:
    """The options that define the trials of a sweep, as the user gave them."""

    overrides: Sequence[str] = ()
    grid: Sequence[str] = ()
    ranges: Sequence[str] = ()
    drawn: int | None = None
    seed: int | None = None
    seeds: int | None = None


class Trial(BaseModel):
    """One run: a combination of values, and a seed.

    Attributes:
        number: Number of the trial, from 0.
        point: Number of its combination, from 0. Trials that differ only in the seed share it.
        assignments: The combination, as `path=literal`.
        seed: The seed of the run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: Count
    point: Count
    assignments: tuple[str, ...]
    seed: Integer

    @field_validator("assignments")
    @classmethod
    def _check_assignments(cls, assignments: tuple[str, ...]) -> tuple[str, ...]:
        for text in assignments:
            if not is_assignment(text):
                raise PydanticCustomError("assignment", "Input should be assignments path=value")
        return assignments

    @property
    def values(self) -> dict[str, str]:
        """The combination, as literals by path."""
        return {path: one for path, _, one in (text.partition("=") for text in self.assignments)}


class SweepPlan(TrialPlan):
    """The trials of a sweep, and the metric that ranks them.

    Attributes:
        version: Version of this format.
        config: Name of the config file.
        text: Content of the config file.
        space: The options `--grid` and `--random`, in a normal form.
        drawn: Number of combinations that were drawn; `None` if the plan has all of them.
        trials: The trials.
    """

    file: ClassVar[str] = "sweep.json"
    noun: ClassVar[str] = "sweep"
    command: ClassVar[str] = "ddn sweep"
    options: ClassVar[Mapping[str, str]] = {
        "overrides": "--set",
        "space": "--grid and --random",
        "drawn": "--trials",
        "seed": "--seed",
        "seeds": "--seeds",
    }

    version: Literal[1] = 1
    config: Name
    text: str
    space: tuple[str, ...]
    drawn: Count | None
    trials: tuple[Trial, ...] = Field(min_length=1, max_length=MOST)

    @field_validator("trials")
    @classmethod
    def _check_trials(cls, trials: tuple[Trial, ...]) -> tuple[Trial, ...]:
        if [trial.number for trial in trials] != list(range(len(trials))):
            raise PydanticCustomError("trials", "Input should be trials with the numbers from 0 in their order")
        if len({tuple(trial.values) for trial in trials}) != 1:
            raise PydanticCustomError("trials", "Input should be trials that assign to the same paths")
        return trials

    @classmethod
    def of(cls, config: Path, search: Search, registry: Registry) -> SweepPlan:
        """Return the plan that options describe, with the config of every trial validated.

        Raises:
            ArgumentError: An option is wrong.
            ConfigError: The config of a trial is wrong; the message names its assignments.
        """
        if search.drawn is None and search.seed is not None:
            raise ArgumentError("--seed is the seed of random search: give --trials too")
        space, seeds = dimensions(search.grid, search.ranges), search.seeds or 1
        if not space and seeds == 1:
            raise ArgumentError("there is nothing to search: give --grid, --random or --seeds")
        if seeds > 1 and any(dimension.path == SEED for dimension in space):
            raise ArgumentError(f"{SEED} is searched already; leave --seeds out")
        if (search.seed or 0) >= 2**63:
            raise ArgumentError(f"--seed {search.seed}: the number does not fit into 64 bits. Give a smaller one.")
        trials: list[Trial] = []
        points = combinations(space, search.drawn, search.seed or 0)
        check_size(len(points) * seeds, f"--seeds {seeds}")
        for point, assignments in enumerate(points):
            first = trial_config(config, search.overrides, assignments, registry).training.seed
            trial_config(config, search.overrides, [*assignments, f"{SEED}={first + seeds - 1}"], registry)
            trials += [
                Trial(number=len(trials) + index, point=point, assignments=assignments, seed=first + index)
                for index in range(seeds)
            ]
        source = Source.of_file("the config", config)
        return cls(
            config=source.config,
            text=source.text,
            overrides=tuple(search.overrides),
            space=tuple(map(str, space)),
            drawn=search.drawn,
            seed=search.seed or 0,
            seeds=seeds,
            trials=tuple(trials),
        )

    @property
    def sources(self) -> Mapping[str, Source]:
        """The config, by its path in the folder."""
        source = Source(name="the config", config=self.config, text=self.text)
        return {source.place("config"): source}

    def tasks(self, folder: Path) -> list[Task]:
        """Return the trials in their order, as tasks in a folder."""
        (config,) = self.sources
        places = [folder / TRIALS / f"{trial.number:04d}" for trial in self.trials]
        return [
            Task(
                number=trial.number,
                label=self.label(trial),
                place=place,
                run=place / "run",
                config=folder / config,
                overrides=(*self.overrides, *trial.assignments, f"{SEED}={trial.seed}"),
            )
            for trial, place in zip(self.trials, places, strict=True)
        ]

    def label(self, trial: Trial) -> str:
        """Return a trial's combination as a line of text, with the seed if trials differ in it."""
        seed = [f"{SEED}={trial.seed}"] if self.seeds > 1 else []
        return " ".join([*trial.assignments, *seed])


@dataclass(frozen=True)
class Combination:
    """A combination of values, with the metric of its trials.

    Attributes:
        trials: Its trials, one for each seed.
        spread: The metric over the trials that finished with a finite value.
        first: The first of these trials; `None` if there is none.
        diverged: The trials that diverged, with the step of each.
    """

    trials: tuple[Trial, ...]
    spread: Spread
    first: Trial | None
    diverged: Mapping[Trial, int]


def ranking(plan: SweepPlan, results: Mapping[int, Result]) -> list[Combination]:
    """Return the combinations that have the metric or diverged, the best first.

    Those that lack the metric for a seed come after those that have it for all, and those with a seed that diverged
    after both, unless the plan allows for seeds that diverged.
    """
    finals = {number: result.final(plan.metric) for number, result in results.items()}
    steps = {number: result.diverged_at for number, result in results.items() if result.state == "diverged"}
    found = []
    for _, group in groupby(plan.trials, key=lambda trial: trial.point):
        trials = tuple(group)
        measured = [(trial, value) for trial in trials if (value := finals.get(trial.number)) is not None]
        diverged = {trial: step for trial in trials if (step := steps.get(trial.number)) is not None}
        if measured or diverged:
            spread = Spread(tuple(value for _, value in measured), len(trials))
            found.append(Combination(trials, spread, measured[0][0] if measured else None, diverged))

    return sorted(found, key=lambda one: one.spread.sort_key(plan.maximize, len(one.diverged), plan.allow_diverged))


def write_trials(folder: TrialFolder, plan: SweepPlan, results: Mapping[int, Result]) -> None:
    """Write all trials with their results as CSV, one trial a row."""
    metrics = distinct(results[number].metrics for number in sorted(results))
    rows: list[Row] = []
    for trial in plan.trials:
        result = results.get(trial.number)
        rows.append(
            {
                "trial": trial.number,
                "combination": trial.point,
                **{path: plain(value) for path, value in trial.values.items()},
                "seed": trial.seed,
                "state": "waiting" if result is None else result.state,
                **{name: None if result is None else result.metrics.get(name) for name in metrics},
                **{
                    name: getattr(result, name, None)
                    for name in ("epochs", "steps", "seconds", "diverged_at", "end", "exit_status", "error")
                },
            }
        )
    write_atomically(folder.path / TABLE, csv_text(rows).encode())


def write_best(folder: TrialFolder, plan: SweepPlan, ranked: Sequence[Combination]) -> Trial | None:
    """Write the config of the best combination, for its first seed that has the metric, and return that trial.

    If all combinations have a seed that diverged, none is the best, unless the plan allows for such seeds.
    """
    (folder.path / BEST).unlink(missing_ok=True)  # an earlier metric may have chosen another config
    best = ranked[0].first if ranked and (plan.allow_diverged or not ranked[0].diverged) else None
    if best is None:
        return None
    try:
        resolved = (plan.tasks(folder.path)[best.number].run / CONFIG).read_bytes()
    except FileNotFoundError:  # users may remove a run once its trial has a result
        return None
    write_atomically(folder.path / BEST, resolved)
    return best

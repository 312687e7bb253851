"""The trials of a sweep, validated and written down before any starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from ddn_core.cli.sweep.space import combinations, dimensions
from ddn_core.cli.trials.folder import TRIALS
from ddn_core.cli.trials.plan import SEED, Task, TrialPlan, shown, trial_config
from ddn_core.errors import ArgumentError
from ddn_core.plugins.registry import Registry


class Trial(BaseModel):
    """One run: a combination of values, and a seed.

    Attributes:
        number: Number of the trial, from 0.
        point: Number of its combination, from 0; trials that differ in the seed only share it.
        assignments: The combination, as `path=literal`.
        seed: The run's seed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    point: int
    assignments: tuple[str, ...]
    seed: int

    @property
    def values(self) -> dict[str, str]:
        """The combination, literals by path."""
        return {path: one for path, _, one in (text.partition("=") for text in self.assignments)}


class Plan(TrialPlan):
    """All that says which trials a sweep has, and by what they are ranked.

    Attributes:
        version: Version of this format.
        config: Name of the base config's file.
        text: What the file held.
        overrides: Assignments of `--set`, for every trial.
        space: The options `--grid` and `--random`, normalized.
        drawn: Number of combinations that were drawn; `None` if all are there.
        seed: Seed of the draws.
        seeds: Number of trials for each combination.
        trials: The trials.
    """

    file: ClassVar[str] = "sweep.json"
    noun: ClassVar[str] = "sweep"
    command: ClassVar[str] = "ddn sweep"

    version: Literal[1] = 1
    config: str
    text: str
    overrides: tuple[str, ...]
    space: tuple[str, ...]
    drawn: int | None
    seed: int
    seeds: int
    trials: tuple[Trial, ...]

    @classmethod
    def of(
        cls,
        config: Path,
        *,
        registry: Registry,
        overrides: Sequence[str] = (),
        grid: Sequence[str] = (),
        ranges: Sequence[str] = (),
        drawn: int | None = None,
        seed: int = 0,
        seeds: int = 1,
        metric: str = "train_loss",
        maximize: bool = False,
    ) -> Plan:
        """Return the plan that options describe, with every trial's config validated.

        Raises:
            ArgumentError: An option is wrong.
            ConfigError: The config of a trial is wrong; the message names its assignments.
        """
        space = dimensions(grid, ranges)
        if not space and seeds == 1:
            raise ArgumentError("there is nothing to search: give --grid, --random or --seeds")
        if seeds > 1 and any(dimension.path == SEED for dimension in space):
            raise ArgumentError(f"{SEED} is searched already; leave --seeds out")
        points = combinations(space, drawn, seed)
        trials: list[Trial] = []
        for point, assignments in enumerate(points):
            first = trial_config(config, overrides, assignments, registry).training.seed
            trials += [
                Trial(number=len(trials) + index, point=point, assignments=assignments, seed=first + index)
                for index in range(seeds)
            ]
            trial_config(config, overrides, [*assignments, f"{SEED}={first + seeds - 1}"], registry)
        return cls(
            config=config.name,
            text=config.read_bytes().decode("utf-8"),
            overrides=tuple(overrides),
            space=tuple(map(str, space)),
            drawn=drawn,
            seed=seed,
            seeds=seeds,
            metric=metric,
            maximize=maximize,
            trials=tuple(trials),
        )

    def texts(self) -> Mapping[str, str]:
        """Return the base config, by its path in the folder."""
        return {self._config: self.text}

    def tasks(self, folder: Path) -> list[Task]:
        """Return the trials in their order, as tasks in a folder."""
        places = [folder / TRIALS / f"{trial.number:04d}" for trial in self.trials]
        return [
            Task(
                number=trial.number,
                label=self.label(trial),
                place=place,
                run=place / "run",
                config=folder / self._config,
                overrides=tuple(self.overrides_of(trial)),
            )
            for trial, place in zip(self.trials, places, strict=True)
        ]

    @property
    def _config(self) -> str:
        return f"config{Path(self.config).suffix}"

    def overrides_of(self, trial: Trial) -> list[str]:
        """Return a trial's assignments, those that all have first."""
        return [*self.overrides, *trial.assignments, f"{SEED}={trial.seed}"]

    def label(self, trial: Trial) -> str:
        """Return a trial's combination for a line of text, with the seed where that tells trials apart."""
        seed = [f"{SEED}={trial.seed}"] if self.seeds > 1 else []
        return " ".join([*trial.assignments, *seed])

    def differences(self, other: Plan) -> list[str]:
        """Return a line for each thing that makes another plan one of other trials; the metric does not."""
        lines = []
        if self.text != other.text:
            lines.append(f"the config: {other.config} does not hold what {self.config} held")
        for name, option in (
            ("overrides", "--set"),
            ("space", "--grid and --random"),
            ("drawn", "--trials"),
            ("seed", "--seed"),
            ("seeds", "--seeds"),
        ):
            was, now = getattr(self, name), getattr(other, name)
            if was != now:
                lines.append(f"{option}: {shown(was)} there, {shown(now)} now")
        if not lines and self.trials != other.trials:
            lines.append("the trials: the same options lead to others now")
        return lines

"""The trials of a comparison, validated and written down before any starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from ddn_core.cli.trials.folder import TRIALS
from ddn_core.cli.trials.plan import SEED, Task, TrialPlan, shown, trial_config
from ddn_core.config import Config
from ddn_core.errors import ArgumentError, ConfigError
from ddn_core.plugins.registry import Registry
from ddn_core.runs.scores import Target

CONFIGS = "configs"
RUNS = "runs"

_LOADING = ("batch_size",)
"""Fields of a problem that say how its data is given out, not what is to be solved."""


class Entry(BaseModel):
    """A config that takes part.

    Attributes:
        name: What it is called, unlike all others.
        config: Name of its file.
        text: What the file held.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    config: str
    text: str

    @property
    def path(self) -> str:
        """Where it is kept, in the folder."""
        return f"{CONFIGS}/{self.name}{Path(self.config).suffix}"


class Plan(TrialPlan):
    """All that says which trials a comparison has, and what is made of them.

    Attributes:
        version: Version of this format.
        entries: The configs.
        overrides: Assignments of `--set`, for every trial.
        seed: The first seed.
        seeds: Number of seeds.
        targets: What is to be reached, as text.
        notes: What keeps the configs from being alike in all but the optimizer.
    """

    file: ClassVar[str] = "comparison.json"
    noun: ClassVar[str] = "comparison"
    command: ClassVar[str] = "ddn compare"

    version: Literal[1] = 1
    entries: tuple[Entry, ...]
    overrides: tuple[str, ...]
    seed: int
    seeds: int
    targets: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        configs: Sequence[Path],
        *,
        registry: Registry,
        overrides: Sequence[str] = (),
        seeds: int = 5,
        metric: str = "train_loss",
        maximize: bool = False,
    ) -> Plan:
        """Return the plan that options describe, with every trial's config validated.

        Raises:
            ArgumentError: The problems differ.
            ConfigError: The config of a trial is wrong.
        """
        loaded = [trial_config(path, overrides, (), registry) for path in configs]
        first = loaded[0].training.seed
        for path in configs:
            for seed in range(first, first + seeds):
                trial_config(path, overrides, (f"{SEED}={seed}",), registry)
        names = _names(configs)
        _check_alike(names, loaded)
        entries = [
            Entry(name=name, config=path.name, text=path.read_bytes().decode("utf-8"))
            for name, path in zip(names, configs, strict=True)
        ]
        return cls(
            entries=tuple(entries),
            overrides=tuple(overrides),
            seed=first,
            seeds=seeds,
            metric=metric,
            maximize=maximize,
            notes=tuple(_notes(names, loaded)),
        )

    @property
    def trials(self) -> list[tuple[str, int]]:
        """Name of the config and seed of every trial; the first seed of all comes first, so that pairs end together."""
        return [(entry.name, self.seed + index) for index in range(self.seeds) for entry in self.entries]

    def texts(self) -> Mapping[str, str]:
        """Return the configs, by their path in the folder."""
        return {entry.path: entry.text for entry in self.entries}

    def tasks(self, folder: Path) -> list[Task]:
        """Return the trials in their order, as tasks in a folder; those that were cut off are gone on with."""
        paths = {entry.name: folder / entry.path for entry in self.entries}
        return [
            Task(
                number=number,
                label=f"{name} seed {seed}",
                place=folder / TRIALS / name / f"seed-{seed}",
                run=folder / RUNS / name / f"seed-{seed}",
                config=paths[name],
                overrides=(*self.overrides, f"{SEED}={seed}"),
                goes_on=True,
            )
            for number, (name, seed) in enumerate(self.trials)
        ]

    def wanted(self) -> list[Target]:
        """Return the targets."""
        return [Target.of_text(text) for text in self.targets]

    def differences(self, other: Plan) -> list[str]:
        """Return a line for each thing that makes another plan one of other trials; metric and targets do not."""
        was, now = ([entry.name for entry in plan.entries] for plan in (self, other))
        lines = [f"the configs: {', '.join(was)} there, {', '.join(now)} now"] if was != now else []
        for ours, theirs in zip(self.entries, other.entries, strict=False):
            if ours.name == theirs.name and ours.text != theirs.text:
                lines.append(f"{ours.name}: {theirs.config} does not hold what {ours.config} held")
        for name, option in (("overrides", "--set"), ("seed", "the first seed"), ("seeds", "--seeds")):
            before, after = getattr(self, name), getattr(other, name)
            if before != after:
                lines.append(f"{option}: {shown(before)} there, {shown(after)} now")
        return lines


def _names(configs: Sequence[Path]) -> list[str]:
    """Return the names of files without their endings; a number tells those apart that are the same."""
    names: list[str] = []
    stems = {path.stem for path in configs}
    for path in configs:
        others = (name for number in count(2) if (name := f"{path.stem}-{number}") not in stems)
        names.append(path.stem if path.stem not in names else next(name for name in others if name not in names))
    return names


def _check_alike(names: Sequence[str], configs: Sequence[Config]) -> None:
    """Say whether all configs are of one problem."""
    first, *others = [_problem(config) for config in configs]
    lines = [
        f"{name}: problem.{field}: {_told(other, field)}, but {_told(first, field)} in {names[0]}"
        for name, other in zip(names[1:], others, strict=True)
        for field in dict.fromkeys([*first, *other])
        if field not in _LOADING and first.get(field) != other.get(field)
    ]
    if lines:
        head = "these configs are of different problems, and what different problems come to cannot be compared:"
        raise ArgumentError("\n".join([head, *(f"  {line}" for line in lines)]))


def _notes(names: Sequence[str], configs: Sequence[Config]) -> list[str]:
    """Return a line for each thing beside the optimizer in which configs differ."""
    if len(configs) == 1:
        return ["there is one config only: nothing to compare it with"]
    notes = []
    for field, what in (
        ("batch_size", "batch sizes differ, and the order of the data with them"),
        ("epochs", "numbers of epochs differ: values after the last epoch are of unlike budgets"),
        ("evaluate_every", "evaluate_every differs: train_loss is the mean since the last evaluation"),
        ("dtype", "dtypes differ"),
        ("device", "devices differ"),
    ):
        places = [_problem(config) if field in _LOADING else config.training.model_dump() for config in configs]
        values = [place.get(field) for place in places]
        if any(value != values[0] for value in values):
            told = ", ".join(f"{name} {shown(value)}" for name, value in zip(names, values, strict=True))
            notes.append(f"{what} ({told})")
    return notes


def _problem(config: Config) -> dict[str, Any]:
    if config.problem is None:
        raise ConfigError("problem: is missing")
    return config.problem.table()


def _told(problem: Mapping[str, Any], field: str) -> str:
    return repr(problem[field]) if field in problem else "not there"

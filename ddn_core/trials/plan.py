"""The plan of all trials, written before any trial starts, and the task that each trial gives to the runner."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field

from ddn_core.config import Config, load_config
from ddn_core.config.overrides import AssignmentError
from ddn_core.errors import ArgumentError, ConfigError
from ddn_core.foreign import Integer, Name, plain_name
from ddn_core.plugins.registry import Registry

SEED = "training.seed"
TRIALS = "trials"

MOST = 100_000
"""Largest number of trials of a plan; a larger one is most likely a typing error."""


@dataclass(frozen=True)
class Task:
    """One trial, as the runner sees it.

    Attributes:
        number: Number of the trial, from 0.
        label: Text that identifies the trial in a line of output.
        place: Folder of its result and of the output of its process.
        run: Its run folder.
        config: The config file that it starts from.
        overrides: All its assignments `path=value`.
        resumes: Whether a run that was cut off continues from its checkpoint. If not, the trial starts again.
    """

    number: int
    label: str
    place: Path
    run: Path
    config: Path
    overrides: tuple[str, ...]
    resumes: bool = False


class Source(BaseModel):
    """A config file that trials start from.

    Attributes:
        name: Its name in the plan, and of its files in the folder of the plan. No other source of the plan has the same
            name.
        config: Name of the file.
        text: Content of the file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    config: Name
    text: str

    @classmethod
    def of_file(cls, name: str, path: Path) -> Source:
        """Return a file as a source of this name.

        Raises:
            ArgumentError: The name cannot be that of a folder, or the file has a name that other systems lack.
        """
        for one in (name, path.name):
            try:
                plain_name(one)
            except ValueError as error:
                raise ArgumentError(f"{path}: {one!r} cannot be the name of a folder. Rename the config.") from error
        return cls(name=name, config=path.name, text=path.read_bytes().decode("utf-8"))

    def place(self, stem: str) -> str:
        """Return the path of its copy in the folder of the plan: `stem` with the ending of the original file."""
        return f"{stem}{Path(self.config).suffix}"


class TrialPlan(BaseModel, ABC):
    """The trials of a command, and the metric that ranks them.

    Attributes:
        file: Name of the file that holds the plan.
        noun: Word for such a plan, in messages.
        command: The command that runs it.
        options: The option behind each field that decides which trials there are.
        metric: The metric that ranks the trials.
        maximize: Whether larger values of the metric are better.
        allow_diverged: Whether a setting is ranked by its other seeds if one of its seeds diverged.
        overrides: Assignments of `--set`, for every trial.
        seed: The first seed: of the draws in a sweep, of the runs in a comparison.
        seeds: Number of seeds that each config is trained with.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: ClassVar[str]
    noun: ClassVar[str]
    command: ClassVar[str]
    options: ClassVar[Mapping[str, str]]

    metric: str = "train_loss"
    maximize: bool = False
    allow_diverged: bool = False
    overrides: tuple[str, ...]
    seed: Integer
    seeds: int = Field(ge=1, le=MOST)

    @property
    @abstractmethod
    def sources(self) -> Mapping[str, Source]:
        """The configs that trials start from, by their path in the folder."""

    @abstractmethod
    def tasks(self, folder: Path) -> list[Task]:
        """Return the trials in their order, as tasks in a folder."""

    def differences(self, other: Self) -> list[str]:
        """Return a line for each thing that gives another plan other trials; a different metric does not."""
        was, now = ({source.name: source for source in plan.sources.values()} for plan in (self, other))
        lines = [] if list(was) == list(now) else [f"the configs: {', '.join(was)} in the folder, {', '.join(now)} now"]
        for name in was:
            if name in now and was[name].text != now[name].text:
                lines.append(f"{name}: the content of {now[name].config} differs from {was[name].config} in the folder")
        for field, option in self.options.items():
            before, after = getattr(self, field), getattr(other, field)
            if before != after:
                lines.append(f"{option}: {option_text(before)} in the folder, {option_text(after)} now")
        if not lines and self.tasks(Path()) != other.tasks(Path()):
            lines.append("the trials: the same options now give other trials")
        return lines


def trial_config(config: Path, overrides: Sequence[str], assignments: Sequence[str], registry: Registry) -> Config:
    """Return the config of a trial.

    Args:
        config: The config file that it starts from.
        overrides: Assignments of `--set`, which all trials share.
        assignments: The trial's own assignments, applied after those.
        registry: The plugins.

    Raises:
        ConfigError: The config is wrong, or has no problem; the message names the trial's own assignments.
    """
    try:
        loaded = load_config(config, [*overrides, *assignments], registry)
    except ConfigError as error:
        text = str(error)
        if isinstance(error, AssignmentError) and error.assignment not in overrides:
            text = error.reason  # the assignment is not a value of `--set`
        raise ConfigError(f"with {' '.join(assignments)}: {text}" if assignments else text) from error
    if loaded.problem is None:
        raise ConfigError(
            f"{config.name}: problem: is missing; add a [problem] table with a kind, such as 'digits-mlp'"
        )
    return loaded


def check_size(trials: int, option: str) -> None:
    """Check that a plan is not absurdly large.

    Args:
        trials: Number of its trials.
        option: The option that multiplies them, with its value.

    Raises:
        ArgumentError: It has more trials than a plan may have.
    """
    if trials > MOST:
        raise ArgumentError(f"{option}: {trials} trials are more than {MOST}. Give a smaller number.")


def option_text(value: object) -> str:
    """Return the value of an option as text, for a line about a difference."""
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)

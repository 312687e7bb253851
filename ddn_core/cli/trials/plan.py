"""What a command runs: a plan that is written down before any trial starts, and a task for each trial."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict

from ddn_core.config import Config, load_config
from ddn_core.errors import ConfigError
from ddn_core.plugins.registry import Registry

SEED = "training.seed"


@dataclass(frozen=True)
class Task:
    """A trial, as the runner sees it.

    Attributes:
        number: Number of the trial, from 0.
        label: What tells it from the others, for a line of text.
        place: Folder of its result and of what its process prints.
        run: Its run folder.
        config: The config that it starts from.
        overrides: All assignments.
        goes_on: Whether a run that was cut off goes on from its checkpoint; if not, it begins anew.
    """

    number: int
    label: str
    place: Path
    run: Path
    config: Path
    overrides: tuple[str, ...]
    goes_on: bool = False


class TrialPlan(BaseModel, ABC):
    """All that says which trials there are, and by what they are ranked.

    Attributes:
        file: Name of the file that it is kept in.
        noun: What such a plan is called.
        command: The command that carries it out.
        metric: What trials are ranked by.
        maximize: Whether more is better.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: ClassVar[str]
    noun: ClassVar[str]
    command: ClassVar[str]

    metric: str
    maximize: bool

    @abstractmethod
    def texts(self) -> Mapping[str, str]:
        """Return the configs that trials start from, by their path in the folder."""

    @abstractmethod
    def tasks(self, folder: Path) -> list[Task]:
        """Return the trials in their order, as tasks in a folder."""

    @abstractmethod
    def differences(self, other: Self) -> list[str]:
        """Return a line for each thing that makes another plan one of other trials; the metric does not."""


def trial_config(config: Path, overrides: Sequence[str], assignments: Sequence[str], registry: Registry) -> Config:
    """Return the config of a trial.

    Args:
        config: The config that it starts from.
        overrides: Assignments that every trial has.
        assignments: Its own, which come after these.
        registry: The plugins.

    Raises:
        ConfigError: It is wrong, or has no problem; the message names the trial's own assignments.
    """
    try:
        loaded = load_config(config, [*overrides, *assignments], registry)
    except ConfigError as error:
        text = str(error) if overrides else str(error).removeprefix("--set: ")
        raise ConfigError(f"with {' '.join(assignments)}: {text}" if assignments else text) from error
    if loaded.problem is None:
        raise ConfigError(
            f"{config.name}: problem: is missing; add a [problem] table with a kind, such as 'digits-mlp'"
        )
    return loaded


def shown(value: object) -> str:
    """Return an option's value for a line that says what differs."""
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)

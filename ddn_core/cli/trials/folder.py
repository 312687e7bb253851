"""The folder of a plan: who may write it, and what in it is finished.

A trial has ended if its result is there. All else that a trial left is of one that was cut off.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from ddn_core.cli.trials.plan import Task, TrialPlan
from ddn_core.cli.trials.process import Result
from ddn_core.errors import ArgumentError, ConfigError
from ddn_core.runs.record import CHECKPOINT, CONFIG

TRIALS = "trials"
RESULT = "result.json"
TABLE = "results.csv"
LOCK = "lock"

_PARTIAL = ".partial"
_PATIENCE = 5.0
"""Seconds in which the children of a command that was killed are gone."""

P = TypeVar("P", bound=TrialPlan)


@dataclass(frozen=True)
class TrialFolder:
    """A folder with a plan, and what its trials left.

    Attributes:
        path: Where it is.
        lock: File descriptor that whoever holds the folder has open, children too; `None` where files have no locks.
    """

    path: Path
    lock: int | None

    def begin(self, plan: TrialPlan) -> None:
        """Write the plan, and the configs that its trials start from."""
        write_atomically(self.path / plan.file, plan.model_dump_json(indent=2) + "\n")
        for name, text in plan.texts().items():
            (self.path / name).parent.mkdir(exist_ok=True)
            write_atomically(self.path / name, text)

    def results(self, plan: TrialPlan) -> dict[int, Result]:
        """Return the results that are there, by number of the trial."""
        found = {}
        for task in plan.tasks(self.path):
            try:
                found[task.number] = Result.model_validate_json((task.place / RESULT).read_bytes())
            except (OSError, ValidationError):
                continue  # it has not ended, or the machine lost its power then
        return found

    def prepare(self, task: Task) -> bool:
        """Make the folders of a trial ready for its process, and return whether it still needs one.

        All that is of no use is removed: all there is, but for a run that was cut off, if the task is to go on with it.
        """
        kept = task.goes_on and (task.run / CONFIG).exists() and not self._has_failed(task)
        finished = kept and (task.run / CHECKPOINT).exists()
        (task.place / RESULT).unlink(missing_ok=True)  # first: what is removed by half has not ended
        if not kept and task.run.exists():
            shutil.rmtree(task.run)
        if not finished and task.place.exists():
            for path in task.place.iterdir():
                if not (kept and path == task.run):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path in (task.place, task.run.parent):
            path.mkdir(parents=True, exist_ok=True)
        return not finished

    def keep(self, task: Task, result: Result) -> None:
        """Write a trial's result, which says that it has ended."""
        write_atomically(task.place / RESULT, result.model_dump_json(indent=2) + "\n")

    def _has_failed(self, task: Task) -> bool:
        """Whether a trial has ended by an error of its own, after which there is nothing to go on with."""
        try:
            return Result.model_validate_json((task.place / RESULT).read_bytes()).state == "failed"
        except (OSError, ValidationError):
            return False


def read_plan(path: Path, kind: type[P]) -> P | None:
    """Return the plan in a folder, or `None` if there is none.

    Raises:
        ConfigError: The plan cannot be read.
    """
    file = path / kind.file
    try:
        text = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise ConfigError(f"{file}: is no plan of a {kind.noun} that this version of ddn can read") from error


def check_usable(path: Path, plan: TrialPlan) -> None:
    """Say whether a plan may be carried out in a folder.

    Raises:
        ArgumentError: The folder has something else in it, or another plan.
        ConfigError: The plan in it cannot be read.
    """
    there = read_plan(path, type(plan))
    if there is None:
        ours = (LOCK, f"{plan.file}{_PARTIAL}")
        left = [one for one in path.iterdir() if one.name not in ours] if path.is_dir() else []
        if left or (path.exists() and not path.is_dir()):
            raise ArgumentError(f"--out: {path} is not empty, and holds no {plan.noun}. Name a new folder.")
    elif lines := there.differences(plan):
        head = f"--out: {path} holds another {plan.noun}. Name a new folder. What differs:"
        raise ArgumentError("\n".join([head, *(f"  {line}" for line in lines)]))


@contextmanager
def held(path: Path, noun: str) -> Iterator[TrialFolder]:
    """Hold a folder, so that nobody else writes into it; it is made if it is not there.

    Args:
        path: Where it is.
        noun: What the folder is of, for messages.

    Raises:
        ArgumentError: The folder cannot be written, or somebody else holds it.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path / LOCK, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise ArgumentError(f"--out: {path} cannot be written: {error.strerror}") from error
    try:
        yield TrialFolder(path, descriptor if _lock(path, descriptor, noun) else None)
    except OSError as error:  # a full disk
        raise ArgumentError(f"{path} cannot be written: {error}") from error
    finally:
        os.close(descriptor)


def write_atomically(path: Path, text: str) -> None:
    """Write a file such that it is there wholly or not at all."""
    partial = path.with_name(f"{path.name}{_PARTIAL}")
    partial.write_bytes(text.encode("utf-8"))
    os.replace(partial, path)


def _lock(path: Path, descriptor: int, noun: str) -> bool:
    """Lock an open file, and return whether there are locks here."""
    try:
        import fcntl
    except ImportError:
        return False
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > end:
                raise ArgumentError(f"--out: another {noun} is running in {path}") from None
            time.sleep(0.05)
        except OSError:  # a file system without locks
            return False

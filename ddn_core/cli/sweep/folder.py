"""The folder of a sweep: who may write it, and what in it is finished.

A trial has ended if its result is there. All else that a trial left is of one that was cut off, and is removed before
the trial starts again.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from ddn_core.cli.sweep.plan import Plan, Trial
from ddn_core.cli.sweep.trial import Result
from ddn_core.errors import ArgumentError, ConfigError

PLAN = "sweep.json"
TRIALS = "trials"
RESULT = "result.json"
TABLE = "results.csv"
BEST = "best.json"
LOCK = "lock"

_PARTIAL = ".partial"
_PATIENCE = 5.0
"""Seconds in which the children of a sweep that was killed are gone."""


@dataclass(frozen=True)
class SweepFolder:
    """A folder with a plan, and a folder for each trial.

    Attributes:
        path: Where it is.
        lock: File descriptor that whoever holds the folder has open, children too; `None` where files have no locks.
    """

    path: Path
    lock: int | None

    def config(self, plan: Plan) -> Path:
        """Return the path of the base config, as it was when the sweep was planned."""
        return self.path / f"config{Path(plan.config).suffix}"

    def trial(self, trial: Trial) -> Path:
        """Return the path of a trial's folder."""
        return self.path / TRIALS / f"{trial.number:04d}"

    def begin(self, plan: Plan) -> None:
        """Write the plan, and the config that its trials start from."""
        write_atomically(self.path / PLAN, plan.model_dump_json(indent=2) + "\n")
        write_atomically(self.config(plan), plan.text)

    def results(self, plan: Plan) -> dict[int, Result]:
        """Return the results that are there, by number of the trial."""
        found = {}
        for trial in plan.trials:
            try:
                found[trial.number] = Result.model_validate_json((self.trial(trial) / RESULT).read_bytes())
            except (OSError, ValidationError):
                continue  # it has not ended, or the machine lost its power then
        return found

    def clear(self, trial: Trial) -> Path:
        """Return the folder of a trial, empty."""
        path = self.trial(trial)
        if path.exists():
            (path / RESULT).unlink(missing_ok=True)  # first: what is removed by half has not ended
            shutil.rmtree(path)
        path.mkdir(parents=True)
        return path

    def keep(self, trial: Trial, result: Result) -> None:
        """Write a trial's result, which says that it has ended."""
        write_atomically(self.trial(trial) / RESULT, result.model_dump_json(indent=2) + "\n")


def read_plan(path: Path) -> Plan | None:
    """Return the plan in a folder, or `None` if there is none.

    Raises:
        ConfigError: The plan cannot be read.
    """
    try:
        text = (path / PLAN).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ConfigError(f"{path / PLAN}: cannot be read: {error.strerror}") from error
    try:
        return Plan.model_validate_json(text)
    except ValidationError as error:
        raise ConfigError(f"{path / PLAN}: is no plan of a sweep that this version of ddn can read") from error


def check_usable(path: Path, plan: Plan) -> None:
    """Say whether a plan may be carried out in a folder.

    Raises:
        ArgumentError: The folder has something else in it, or another plan.
        ConfigError: The plan in it cannot be read.
    """
    there = read_plan(path)
    if there is None:
        left = [one for one in path.iterdir() if one.name not in (LOCK, f"{PLAN}{_PARTIAL}")] if path.is_dir() else []
        if left or (path.exists() and not path.is_dir()):
            raise ArgumentError(f"--out: {path} is not empty, and holds no sweep. Name a new folder.")
    elif lines := there.differences(plan):
        raise ArgumentError(
            "\n".join(
                [f"--out: {path} holds another sweep. Name a new folder. What differs:", *(f"  {x}" for x in lines)]
            )
        )


@contextmanager
def held(path: Path) -> Iterator[SweepFolder]:
    """Hold a folder, so that no other sweep writes into it; it is made if it is not there.

    Raises:
        ArgumentError: The folder cannot be written, or another sweep holds it.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path / LOCK, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise ArgumentError(f"--out: {path} cannot be written: {error.strerror}") from error
    try:
        yield SweepFolder(path, descriptor if _lock(path, descriptor) else None)
    except OSError as error:  # a full disk
        raise ArgumentError(f"{path} cannot be written: {error}") from error
    finally:
        os.close(descriptor)


def write_atomically(path: Path, text: str) -> None:
    """Write a file such that it is there wholly or not at all."""
    partial = path.with_name(f"{path.name}{_PARTIAL}")
    partial.write_bytes(text.encode("utf-8"))
    os.replace(partial, path)


def _lock(path: Path, descriptor: int) -> bool:
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
                raise ArgumentError(f"--out: another sweep is running in {path}") from None
            time.sleep(0.05)
        except OSError:  # a file system without locks
            return False

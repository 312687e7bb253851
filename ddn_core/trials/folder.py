"""The folder of a plan: the lock that keeps other commands out, and the results of the trials that have ended.

A trial has ended if its result exists. If a trial left other files but no result, it was cut off.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter

from ddn_core.errors import ArgumentError
from ddn_core.files import remove_partial_files, write_atomically, writing
from ddn_core.foreign import check_no_links, content_of, parsed
from ddn_core.locks import FolderLock, is_unused
from ddn_core.runs.record import CHECKPOINT, CONFIG
from ddn_core.trials.plan import Task, TrialPlan
from ddn_core.trials.process import Result

RESULT = "result.json"
TABLE = "results.csv"

_RESULT = TypeAdapter(Result)

P = TypeVar("P", bound=TrialPlan)


@dataclass(frozen=True)
class TrialFolder:
    """A folder that this process may write, with a plan and the results of its trials.

    Attributes:
        path: Path of the folder.
        lock: File descriptor of the lock, which children inherit; `None` on a file system without locks.
    """

    path: Path
    lock: int | None

    def begin(self, plan: TrialPlan) -> None:
        """Write the plan, and the configs that its trials start from."""
        self._write(self.path / plan.file, plan.model_dump_json(indent=2) + "\n")
        for name, source in plan.sources.items():
            self._write(self.path / name, source.text)

    def results(self, plan: TrialPlan) -> dict[int, Result]:
        """Return the results that exist, by number of trial."""
        found = {task.number: _result(task) for task in plan.tasks(self.path)}
        return {number: result for number, result in found.items() if result is not None}

    def prepare(self, task: Task) -> bool:
        """Prepare the folders of a trial for its process, and return whether it still needs a process.

        A run that was cut off is kept if the task resumes it, and everything else in the folders is removed.

        Raises:
            ArgumentError: The folders cannot be written.
        """
        result = _result(task)
        failed = result is not None and result.state == "failed"  # nothing to resume after an error of its own
        kept = task.resumes and (task.run / CONFIG).exists() and not failed
        finished = kept and (task.run / CHECKPOINT).exists()
        with writing(task.place):
            (task.place / RESULT).unlink(missing_ok=True)  # first: a trial that is half removed has not ended
            if not kept and task.run.exists():
                shutil.rmtree(task.run)
            if not finished and task.place.exists():
                for path in task.place.iterdir():
                    if not (kept and path == task.run):
                        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            for path in (task.place, task.run.parent):
                path.mkdir(parents=True, exist_ok=True)
        return not finished

    def keep(self, task: Task, result: Result) -> None:
        """Write a trial's result, which marks the trial as ended."""
        self._write(task.place / RESULT, result.model_dump_json(indent=2) + "\n")

    def _write(self, path: Path, text: str) -> None:
        with writing(path):
            path.parent.mkdir(exist_ok=True)
        write_atomically(path, text.encode())


def read_plan(path: Path, kind: type[P]) -> P | None:
    """Return the plan in a folder, or `None` if the folder has none.

    Raises:
        ArgumentError: The plan cannot be read.
    """
    file = path / kind.file
    try:
        text = content_of(file)
    except FileNotFoundError:
        return None
    return parsed(TypeAdapter(kind), text, file, f"a plan of a {kind.noun}")


@contextmanager
def opened(path: Path, plan: TrialPlan, stored: bool = False) -> Iterator[TrialFolder]:
    """Hold a folder with a plan in it, so that no other command writes to it.

    Args:
        path: Path of the folder; it is created if necessary.
        plan: The plan.
        stored: Whether the plan was read from this folder.

    Raises:
        ArgumentError: The folder has other contents or another plan, has a symbolic link inside, cannot be written, or
            another command holds it.
    """
    check_no_links(path)
    if not stored:
        with writing(path):
            _check_usable(path, plan)
    lock = FolderLock(path)
    try:
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
            advice = "Wait until it has ended, or name a new folder with --out."
            lock.acquire(f"--out: another {plan.noun} is running in {path}. {advice}")
        if not stored:
            _check_usable(path, plan)  # again: from here on nobody else can write a plan
        remove_partial_files(path)
        folder = TrialFolder(path, lock.descriptor)
        folder.begin(plan)
        yield folder
    finally:
        lock.release()


def _check_usable(path: Path, plan: TrialPlan) -> None:
    """Check that a plan can be run in a folder.

    Raises:
        ArgumentError: The folder has other contents, or another plan, or a plan that cannot be read.
    """
    there = read_plan(path, type(plan))
    if there is None:
        if not is_unused(path, plan.file):
            raise ArgumentError(f"--out: {path} is not empty, and holds no {plan.noun}. Name a new folder.")
    elif lines := there.differences(plan):
        head = f"--out: {path} holds another {plan.noun}. Name a new folder. What differs:"
        raise ArgumentError("\n".join([head, *(f"  {line}" for line in lines)]))


def _result(task: Task) -> Result | None:
    """Return the result of a trial; `None` if it has not ended.

    Raises:
        ArgumentError: The result is damaged. The run is kept: the user decides whether it is repeated.
    """
    file = task.place / RESULT
    try:
        content = content_of(file)
    except FileNotFoundError:
        return None
    return parsed(
        _RESULT, content, file, "a result of a trial", "Restore the file, or remove it to run the trial again."
    )

"""The process of one trial, as parent and child see it, and the result of the trial.

The parent holds the child's standard input open and never writes to it. However the parent ends, the system closes
that end, a read in the child returns, and the child kills itself.

The child leads a process group, which ends with it: however the child ends, the parent kills the rest of the group.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from ddn_core.errors import ArgumentError
from ddn_core.foreign import Count, Finite, Integer
from ddn_core.runs.record import CHECKPOINT, CONFIG, METRICS, read_events
from ddn_core.runs.scores import finite, values_of
from ddn_core.text import shortened
from ddn_core.trials.plan import Task

OUTPUT = "output.log"
ERRORS = "errors.log"

_LOCK = "DDN_TRIAL_LOCK"
"""Environment variable with the file descriptor of the lock that a trial inherits."""
_TAIL = 1 << 16
"""Number of bytes at the end of the errors of a trial that are read, however much the trial wrote."""
_LONGEST = 1000
"""Number of characters that are kept of the last line."""

DIVERGED = 3
"""Exit status of `ddn train` for a run that diverged."""

_CODE = "from ddn_core.trials.process import die_with_parent; die_with_parent(); from ddn_core.cli import main; main()"
_CHILD = (sys.executable, "-P", "-c", _CODE)

State = Literal["finished", "diverged", "failed", "timed out"]


class Result(BaseModel):
    """The result of a trial.

    Attributes:
        state: The way in which it ended.
        exit_status: Exit status of its process, negative for a signal; `None` if no process was started.
        metrics: Losses and test metrics of the last epoch; `None` for a value that is not finite.
        epochs: Number of epochs that ended.
        steps: Number of steps.
        seconds: Wall-clock time of the process; of the last one, if the run was continued.
        error: Last line that the process wrote to standard error.
        diverged_at: Number of the step at which the run diverged; `None` if it did not.
        end: The reason why the run stopped before its last epoch or diverged, in words; `None` if it did neither.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    state: State
    exit_status: Integer | None
    metrics: dict[str, Finite | None] = {}
    epochs: Count = 0
    steps: Count = 0
    seconds: Finite
    error: str | None = None
    diverged_at: Count | None = None
    end: str | None = None

    @classmethod
    def of_run(
        cls, run: Path, exit_status: int | None = None, seconds: float = 0, error: str | None = None, late: bool = False
    ) -> Result:
        """Return the result of a trial whose process has ended.

        A run that came to its end has a final checkpoint, whatever the exit status of its process is.

        Args:
            run: The run folder.
            exit_status: Exit status of the process.
            seconds: Wall-clock time of the process.
            error: The reason why the process failed, if it did.
            late: Whether the process was stopped because it took too long.
        """
        try:
            steps, evaluations, end = read_events(run / METRICS)
        except ArgumentError as damaged:
            steps, evaluations, end, error = [], [], None, error or str(damaged)
        ends = [event for event in evaluations if event.ends_epoch]
        diverged = end is not None and end.diverged_at is not None
        if diverged and exit_status in (None, DIVERGED):
            error = None
        elif not ends:
            error = error or "the run ended without an epoch"
        elif not (run / CHECKPOINT).exists():
            error = error or f"the process ended after {len(steps)} steps, before the end of the run"
        return cls(
            state="timed out" if late else "failed" if error is not None else "diverged" if diverged else "finished",
            exit_status=exit_status,
            metrics={name: finite(value) for name, value in values_of(ends[-1]).items()} if ends else {},
            epochs=len(ends),
            steps=len(steps),
            seconds=round(seconds, 3),
            error=error,
            diverged_at=None if end is None else end.diverged_at,
            end=None if end is None else str(end),
        )

    def final(self, metric: str) -> float | None:
        """Return a metric after the last epoch; `None` if it is not finite, or the trial did not finish."""
        return finite(self.metrics.get(metric)) if self.state == "finished" else None


@dataclass
class Process:
    """The process of a trial.

    Attributes:
        task: The trial.
        popen: The process.
        begun: Time of its start, on the monotonic clock.
    """

    task: Task
    popen: subprocess.Popen[bytes]
    begun: float = field(default_factory=time.monotonic)
    _status: int | None = field(default=None, init=False)

    @classmethod
    def start(cls, task: Task, plugins: str | None, threads: int, lock: int | None) -> Process:
        """Start `ddn train` in a process group of its own; a run that has begun is resumed.

        Args:
            task: The trial.
            plugins: Value of `ddn --plugins`.
            threads: Number of threads for torch.
            lock: File descriptor of the folder's lock, which the child inherits.
        """
        allowed = [] if plugins is None else ["--plugins", plugins]
        if (task.run / CONFIG).exists():
            what = ["--resume", str(task.run)]
        else:
            assignments = [item for text in task.overrides for item in ("--set", text)]
            what = [str(task.config), "--out", str(task.run), *assignments]
        command = [*_CHILD, *allowed, "train", *what]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "NO_COLOR": "1", "COLUMNS": "120"}
        environment.pop("FORCE_COLOR", None)
        inherited = () if lock is None or os.name == "nt" else (lock,)
        if inherited:
            environment[_LOCK] = str(lock)
        with (task.place / OUTPUT).open("wb") as output, (task.place / ERRORS).open("wb") as errors:
            popen = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=errors,
                env=environment,
                start_new_session=True,  # the parent handles interrupts from the keyboard
                pass_fds=inherited,
            )
        return cls(task, popen)

    @property
    def seconds(self) -> float:
        """Time since the process started."""
        return time.monotonic() - self.begun

    @property
    def has_ended(self) -> bool:
        """True if the process has ended; what it has started may still run."""
        return self._waited(os.WNOHANG) if hasattr(os, "waitid") else self.popen.poll() is not None

    def kill(self) -> None:
        """Kill the process and all that it has started, and wait until it has ended."""
        if not self._kill_group():
            self.popen.kill()
        self._close()

    def result(self, timeout: float | None = None) -> Result:
        """Return the result of the trial, after its process has ended.

        Args:
            timeout: The limit in seconds, if the process was stopped because it took longer.
        """
        status = self._close()
        error = None
        if timeout is not None:
            error = f"stopped after {timeout:.3g} s"
        elif status < 0:
            error = f"killed by {_signal(-status)}"
        elif status > 0:
            error = last_line(self.task.place / ERRORS) or f"exit status {status}"
        return Result.of_run(self.task.run, status, self.seconds, error, timeout is not None)

    def _close(self) -> int:
        """Wait until the process has ended, kill what is left of its group, and return its exit status."""
        if self._status is None:
            assert self.popen.stdin is not None
            if hasattr(os, "waitid"):
                self._waited(0)
            self._kill_group()  # before the status is read: until then, the system gives the number to no other group
            self._status = self.popen.wait()
            self.popen.stdin.close()
        return self._status

    def _waited(self, options: int) -> bool:
        """Wait for the end of the process without reading its status, and return whether it has ended."""
        try:
            return os.waitid(os.P_PID, self.popen.pid, os.WEXITED | os.WNOWAIT | options) is not None
        except ChildProcessError:  # its status was read before
            return self.popen.poll() is not None

    def _kill_group(self) -> bool:
        """Kill the processes of the group, and return whether there is such a group."""
        if hasattr(os, "killpg"):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.popen.pid, signal.SIGKILL)
                return True
        return False


def last_line(path: Path) -> str | None:
    """Return the last line of a file that is not blank, or `None` if there is none near its end.

    A long line is shortened.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL))
            end = file.read(_TAIL).decode("utf-8", errors="replace")
    except OSError:  # removed by the user, or by code of the trial
        return None
    lines = [line.strip() for line in end.splitlines() if line.strip()]
    return shortened(lines[-1], _LONGEST) if lines else None


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def die_with_parent() -> None:
    """Kill this process, and those that it has started, as soon as its parent has ended.

    The lock that this process inherited stays its own: processes that it starts may outlive it, and do not hold it.
    """
    if (lock := os.environ.pop(_LOCK, None)) is not None:
        _keep_from_children(int(lock))
    lifeline = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)  # code of the trial that reads standard input finds it empty
    os.close(nothing)
    threading.Thread(target=_watch, args=(lifeline,), daemon=True).start()


def _keep_from_children(descriptor: int) -> None:
    """Close a file descriptor in all processes that this process starts from now on."""
    os.set_inheritable(descriptor, False)
    held = [descriptor]

    def close() -> None:
        while held:  # once: in a child of the child, the number may belong to another file
            os.close(held.pop())

    os.register_at_fork(after_in_child=close)


def _watch(lifeline: int) -> None:
    os.read(lifeline, 1)
    if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)  # workers that load data belong to the group
    os._exit(1)

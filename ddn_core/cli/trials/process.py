"""One trial: how its process starts, and what it left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from ddn_core.cli.trials.plan import Task
from ddn_core.runs.record import CONFIG, METRICS

OUTPUT = "output.log"
ERRORS = "errors.log"

_LOSSES = ("train_loss", "test_loss")
_CODE = (
    "from ddn_core.cli.trials.child import die_with_parent; from ddn_core.cli import main; die_with_parent(); main()"
)
_CHILD = [sys.executable, "-P", "-c", _CODE]

State = Literal["finished", "failed", "timed out"]


class Result(BaseModel):
    """What became of a trial.

    Attributes:
        state: How it ended.
        exit_status: Exit status of its process, negative for a signal; `None` if none was started.
        metrics: Losses and test metrics of the last epoch; `None` for a value that is not finite.
        epochs: Number of epochs that ended.
        steps: Number of steps.
        seconds: Wall-clock time of the process; of the last, where a run was gone on with.
        error: Last line of what it wrote to standard error.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    state: State
    exit_status: int | None
    metrics: dict[str, float | None] = {}
    epochs: int = 0
    steps: int = 0
    seconds: float
    error: str | None = None


@dataclass
class Process:
    """The process of a trial.

    Attributes:
        task: The trial.
        popen: The process.
        begun: When it started.
    """

    task: Task
    popen: subprocess.Popen[bytes]
    begun: float = field(default_factory=time.monotonic)

    @classmethod
    def start(cls, task: Task, plugins: str | None, threads: int, lock: int | None) -> Process:
        """Start `ddn train` in a group of processes of its own; a run that has begun goes on.

        Args:
            task: The trial.
            plugins: What `ddn --plugins` was given.
            threads: Number of threads for torch.
            lock: File descriptor that the child holds open.
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
        with (task.place / OUTPUT).open("wb") as output, (task.place / ERRORS).open("wb") as errors:
            popen = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=errors,
                env=environment,
                start_new_session=True,  # an interrupt from the keyboard is for the parent to handle
                pass_fds=() if lock is None else (lock,),
            )
        return cls(task, popen)

    @property
    def seconds(self) -> float:
        """Time since the process started."""
        return time.monotonic() - self.begun

    def kill(self) -> None:
        """End the process and all that it started, and wait until it has ended."""
        if hasattr(os, "killpg"):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.kill()
        self._close()

    def result(self, timed_out: bool = False) -> Result:
        """Return what became of the trial, after its process has ended."""
        status = self._close()
        metrics, epochs, steps = read_metrics(self.task.run / METRICS)
        error = None
        if timed_out:
            error = f"stopped after {self.seconds:.3g} s"
        elif status < 0:
            error = f"killed by {_signal(-status)}"
        elif status > 0:
            error = last_line(self.task.place / ERRORS) or f"exit status {status}"
        elif not epochs:
            error = "it ended without an epoch"
        return Result(
            state="timed out" if timed_out else "finished" if error is None else "failed",
            exit_status=status,
            metrics=metrics,
            epochs=epochs,
            steps=steps,
            seconds=round(self.seconds, 3),
            error=error,
        )

    def _close(self) -> int:
        assert self.popen.stdin is not None
        status = self.popen.wait()
        self.popen.stdin.close()
        return status


def finished_result(task: Task) -> Result:
    """Return the result of a trial whose run is finished, but whose process left none."""
    metrics, epochs, steps = read_metrics(task.run / METRICS)
    return Result(state="finished", exit_status=None, metrics=metrics, epochs=epochs, steps=steps, seconds=0)


def read_metrics(path: Path) -> tuple[dict[str, float | None], int, int]:
    """Return the last epoch's losses and metrics, the number of epochs and that of steps; a run may be cut off."""
    metrics: dict[str, float | None] = {}
    epochs = steps = 0
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return metrics, epochs, steps
    for line in lines:
        event = _event(line)
        if event.get("event") == "step":
            steps += 1
        elif event.get("event") == "epoch":
            epochs += 1
            found = {name: event.get(name) for name in _LOSSES} | dict(event.get("test_metrics") or {})
            metrics = {name: value for name, value in found.items() if value is None or isinstance(value, int | float)}
    return metrics, epochs, steps


def last_line(path: Path) -> str | None:
    """Return the last line of a file that is not blank."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), None)


def _event(line: str) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except ValueError:  # the last line of a run that was killed
        return {}
    return event if isinstance(event, dict) else {}


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"

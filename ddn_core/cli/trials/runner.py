"""Several children at a time, from one thread that looks at them in turn."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass

from ddn_core.cli.trials.folder import TrialFolder
from ddn_core.cli.trials.plan import Task
from ddn_core.cli.trials.process import Process, Result, finished_result

_THREADS = "OMP_NUM_THREADS"
_PAUSE = 0.05


@dataclass(frozen=True)
class Share:
    """How the cores are shared.

    Attributes:
        jobs: Number of trials at a time.
        threads: Number of threads of each.
    """

    jobs: int
    threads: int

    @classmethod
    def of(cls, jobs: int | None, waiting: int, on_gpu: bool) -> Share:
        """Return a share of this process's cores.

        Args:
            jobs: Number of trials at a time; by default as many as there are cores, or one on a GPU.
            waiting: Number of trials.
            on_gpu: Whether the trials are on a GPU.
        """
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        given = os.environ.get(_THREADS, "")
        wanted = int(given) if given.isdecimal() and int(given) > 0 else None
        if jobs is None:
            jobs = 1 if on_gpu else max(1, cores // (wanted or 1))
        jobs = max(1, min(jobs, waiting))
        return cls(jobs, wanted or max(1, cores // jobs))


@dataclass(frozen=True)
class Started:
    """A trial has started."""

    task: Task


@dataclass(frozen=True)
class Ended:
    """A trial has ended, and its result is written."""

    task: Task
    result: Result


def run_trials(
    folder: TrialFolder,
    tasks: Sequence[Task],
    share: Share,
    *,
    plugins: str | None = None,
    timeout: float | None = None,
) -> Generator[Started | Ended | None, None, None]:
    """Run trials, and yield what happens; `None` where nothing does.

    One that fails does not stop the others. If the iterator is closed or interrupted, those that run are killed, and
    have no result.
    """
    waiting = list(reversed(tasks))
    running: dict[int, Process] = {}
    try:
        while waiting or running:
            while waiting and len(running) < share.jobs:
                task = waiting.pop()
                if not folder.prepare(task):  # killed between the end of the run and its result
                    yield _ended(folder, task, finished_result(task))
                    continue
                try:
                    process = Process.start(task, plugins, share.threads, folder.lock)
                except OSError as error:  # no memory, no process left
                    yield _ended(folder, task, Result(state="failed", exit_status=None, seconds=0, error=str(error)))
                    continue
                running[task.number] = process
                yield Started(task)
            ended = [number for number, process in running.items() if _over(process, timeout)]
            for number in ended:
                process = running.pop(number)
                timed_out = process.popen.poll() is None
                if timed_out:
                    process.kill()
                yield _ended(folder, process.task, process.result(timed_out))
            if not ended:
                time.sleep(_PAUSE)
                yield None
    finally:
        for process in running.values():
            process.kill()


def _over(process: Process, timeout: float | None) -> bool:
    return process.popen.poll() is not None or (timeout is not None and process.seconds > timeout)


def _ended(folder: TrialFolder, task: Task, result: Result) -> Ended:
    folder.keep(task, result)
    return Ended(task, result)

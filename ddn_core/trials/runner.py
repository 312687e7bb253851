"""Several trials at a time, each in a process of its own, watched in turn by one thread."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass

from ddn_core.trials.folder import TrialFolder
from ddn_core.trials.plan import Task
from ddn_core.trials.process import Process, Result

_THREADS = "OMP_NUM_THREADS"
_PAUSE = 0.05


@dataclass(frozen=True)
class Share:
    """The division of the cores among trials.

    Attributes:
        jobs: Number of trials at a time.
        threads: Number of threads of each.
    """

    jobs: int
    threads: int

    @classmethod
    def of(cls, jobs: int | None, waiting: int, on_gpu: bool) -> Share:
        """Divide the cores that this process may use.

        Args:
            jobs: Number of trials at a time; by default as many as there are cores, or one on a GPU.
            waiting: Number of trials.
            on_gpu: Whether the trials run on a GPU.
        """
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        given = os.environ.get(_THREADS, "")
        wanted = int(given) if given.isdecimal() and int(given) > 0 else None
        if jobs is None:
            jobs = 1 if on_gpu else max(1, cores // (wanted or 1))
        jobs = max(1, min(jobs, waiting))
        return cls(jobs, wanted or max(1, cores // jobs))


@dataclass(frozen=True)
class Event:
    """The start of a trial, or its end, by which its result has been written.

    Attributes:
        task: The trial.
        result: The result; `None` at the start.
    """

    task: Task
    result: Result | None = None


def run_trials(
    folder: TrialFolder,
    tasks: Sequence[Task],
    share: Share,
    *,
    plugins: str | None = None,
    timeout: float | None = None,
) -> Generator[Event | None, None, None]:
    """Run trials, and yield each start and each end; `None` after a moment without any.

    A trial that fails does not stop the others. If the iterator is closed or interrupted, the running trials are
    killed, and have no result.
    """
    waiting = list(reversed(tasks))
    running: dict[int, Process] = {}
    try:
        while waiting or running:
            while waiting and len(running) < share.jobs:
                task = waiting.pop()
                if not folder.prepare(task):  # an earlier command was killed between the end of the run and its result
                    yield _ended(folder, task, Result.of_run(task.run))
                    continue
                try:
                    process = Process.start(task, plugins, share.threads, folder.lock)
                except OSError as error:  # the system has no memory or no process left
                    yield _ended(folder, task, Result(state="failed", exit_status=None, seconds=0, error=str(error)))
                    continue
                running[task.number] = process
                yield Event(task)
            ended = [number for number, process in running.items() if _over(process, timeout)]
            for number in ended:
                process = running.pop(number)
                timed_out = not process.has_ended
                if timed_out:
                    process.kill()
                yield _ended(folder, process.task, process.result(timeout if timed_out else None))
            if not ended:
                time.sleep(_PAUSE)
                yield None
    finally:
        for process in running.values():
            process.kill()


def _over(process: Process, timeout: float | None) -> bool:
    return process.has_ended or (timeout is not None and process.seconds > timeout)


def _ended(folder: TrialFolder, task: Task, result: Result) -> Event:
    folder.keep(task, result)
    return Event(task, result)

"""Several children at a time, from one thread that looks at them in turn."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass

from ddn_core.cli.sweep.folder import SweepFolder
from ddn_core.cli.sweep.plan import Plan, Trial
from ddn_core.cli.sweep.trial import Process, Result

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

    trial: Trial


@dataclass(frozen=True)
class Ended:
    """A trial has ended, and its result is written."""

    trial: Trial
    result: Result


def run_trials(
    folder: SweepFolder,
    plan: Plan,
    trials: Sequence[Trial],
    share: Share,
    *,
    plugins: str | None = None,
    timeout: float | None = None,
) -> Generator[Started | Ended | None, None, None]:
    """Run trials, and yield what happens; `None` where nothing does.

    One that fails does not stop the others. If the iterator is closed or interrupted, those that run are killed, and
    have no result.
    """
    waiting = list(reversed(trials))
    running: dict[int, tuple[Trial, Process]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < share.jobs:
                trial = waiting.pop()
                place = folder.clear(trial)
                try:
                    process = Process.start(
                        place, folder.config(plan), plan.overrides_of(trial), plugins, share.threads, folder.lock
                    )
                except OSError as error:  # no memory, no process left
                    yield _ended(folder, trial, Result(state="failed", exit_status=None, seconds=0, error=str(error)))
                    continue
                running[trial.number] = trial, process
                yield Started(trial)
            ended = [number for number, (_, process) in running.items() if _over(process, timeout)]
            for number in ended:
                trial, process = running.pop(number)
                timed_out = process.popen.poll() is None
                if timed_out:
                    process.kill()
                yield _ended(folder, trial, process.result(timed_out))
            if not ended:
                time.sleep(_PAUSE)
                yield None
    finally:
        for _, process in running.values():
            process.kill()


def _over(process: Process, timeout: float | None) -> bool:
    return process.popen.poll() is not None or (timeout is not None and process.seconds > timeout)


def _ended(folder: SweepFolder, trial: Trial, result: Result) -> Ended:
    folder.keep(trial, result)
    return Ended(trial, result)

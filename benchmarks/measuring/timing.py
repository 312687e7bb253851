"""Durations of several functions that run in turns."""

from __future__ import annotations

import gc
from collections.abc import Callable
from statistics import median
from typing import Any

from benchmarks.cases import Case
from benchmarks.measuring.clock import seconds_of
from benchmarks.measuring.failure import failure_of
from benchmarks.sides import SIDES, Side

_SECONDS_PER_TURN = 0.2
_RUNS_PER_TURN = 20
_SHORT, _SLOW = 1.0, 10.0


class Stopwatch:
    """Times a function repeatedly, in turns.

    If a run is short, a turn consists of several timed runs after an untimed one, because memory that another function
    returned to the system is slow to allocate again. A first run of more than ten seconds needs no warm-up: it counts.

    Attributes:
        slow: True if a run takes more than ten seconds.
        turns: Number of completed turns.
    """

    def __init__(self, function: Callable[[], Any], before: Callable[[], Any], device: str) -> None:
        """Warm up.

        Args:
            function: Function to time.
            before: Function that is called before each run, untimed.
            device: Device that does the work.
        """
        self._function, self._before, self._device = function, before, device
        first = self._run()
        self.slow = first > _SLOW
        self.turns = 1 if self.slow else 0
        self._seconds = [first] if self.slow else []
        second = first if self.slow else self._run()
        self._short = second < _SHORT
        self._runs = max(1, min(_RUNS_PER_TURN, int(_SECONDS_PER_TURN / second)))

    def turn(self) -> None:
        """Time the runs of one turn."""
        if self._short:
            self._run()
        self._seconds += [self._run() for _ in range(self._runs)]
        self.turns += 1

    def result(self) -> dict[str, Any]:
        """Return median and range of all runs as plain data."""
        return {
            "seconds": median(self._seconds),
            "fastest": min(self._seconds),
            "slowest": max(self._seconds),
            "runs": len(self._seconds),
        }

    def _run(self) -> float:
        self._before()
        gc.collect()
        return seconds_of(self._function, self._device)


def time_in_turns(
    functions: dict[str, Callable[[], Any]],
    repetitions: int,
    device: str = "cpu",
    before: dict[str, Callable[[], Any]] | None = None,
    insist: bool = True,
) -> dict[str, Any]:
    """Return the durations of several functions that run in turns; a function that fails has a failure instead.

    Args:
        functions: Functions to time, by name.
        repetitions: Number of turns.
        device: Device that does the work.
        before: Functions that are called before each run, untimed, by name.
        insist: If False, a function that takes more than ten seconds runs only once.
    """
    gc.collect()
    gc.freeze()  # the collector ignores existing objects, so that collecting before each run is cheap
    outcomes: dict[str, Any] = {}
    watches: dict[str, Stopwatch] = {}
    for name, function in functions.items():
        try:
            watches[name] = Stopwatch(function, (before or {}).get(name, _nothing), device)
        except Exception as error:
            outcomes[name] = failure_of(error)
    for turn in range(repetitions):
        for name, watch in watches.items():
            if name not in outcomes and watch.turns <= turn and (insist or not watch.slow):
                try:
                    watch.turn()
                except Exception as error:
                    outcomes[name] = failure_of(error)
    gc.unfreeze()
    return outcomes | {name: watch.result() for name, watch in watches.items() if name not in outcomes}


def time_sides(case: dict[str, Any], sides: list[str], repetitions: int, insist: bool, device: str) -> dict[str, Any]:
    """Return the duration of a full step of each side; a side that fails has a failure instead.

    Args:
        case: Fields of the case.
        sides: Names of the sides.
        repetitions: Number of turns.
        insist: If False, a step that takes more than ten seconds runs only once.
        device: Device of models and data.
    """
    outcomes: dict[str, Any] = {}
    made: dict[str, Side] = {}
    for name in sides:
        try:
            made[name] = SIDES[name](Case(**case), device)
        except Exception as error:
            outcomes[name] = failure_of(error)
    steps = {name: side.step for name, side in made.items()}
    restores = {name: side.restore for name, side in made.items()}
    outcomes |= time_in_turns(steps, repetitions, device, restores, insist)
    for name, side in made.items():
        outcomes[name]["finite"] = side.is_finite()
    return {name: outcomes[name] for name in sides}


def _nothing() -> None:
    """Do nothing before a run."""

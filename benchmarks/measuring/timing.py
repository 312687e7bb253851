"""Timing of several functions that take turns."""

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
    """Repeated timing of a function, in turns.

    If a run is short, a turn consists of several runs after one that is not counted: memory that another side returned
    to the system is slow to obtain again. A first run of more than ten seconds needs no warm-up, and is counted.

    Attributes:
        is_slow: The first run took more than ten seconds.
        turns: Number of turns so far.
    """

    def __init__(self, function: Callable[[], Any], before: Callable[[], Any], device: str) -> None:
        """Warm up.

        Args:
            function: Function to time.
            before: Function to call before each run, untimed.
            device: Device that does the work.
        """
        self._function, self._before, self._device = function, before, device
        first = self._run()
        self.is_slow = first > _SLOW
        self.turns = 1 if self.is_slow else 0
        self._seconds = [first] if self.is_slow else []
        second = first if self.is_slow else self._run()
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
    repeat_slow: bool = True,
) -> dict[str, Any]:
    """Return the times of several functions that take turns, or their failures.

    Args:
        functions: Functions to time, by name.
        repetitions: Number of turns.
        device: Device that does the work.
        before: Functions to call before each run, untimed, by the same names.
        repeat_slow: Repeat functions that take more than ten seconds like all others; otherwise they run once.
    """
    gc.collect()
    gc.freeze()  # later collections skip all present objects, so that collecting before each run is cheap
    outcomes: dict[str, Any] = {}
    watches: dict[str, Stopwatch] = {}
    for name, function in functions.items():
        try:
            watches[name] = Stopwatch(function, (before or {}).get(name, _nothing), device)
        except Exception as error:
            outcomes[name] = failure_of(error)
    for turn in range(repetitions):
        for name, watch in watches.items():
            if name not in outcomes and watch.turns <= turn and (repeat_slow or not watch.is_slow):
                try:
                    watch.turn()
                except Exception as error:
                    outcomes[name] = failure_of(error)
    gc.unfreeze()
    return outcomes | {name: watch.result() for name, watch in watches.items() if name not in outcomes}


def time_sides(
    case: dict[str, Any], sides: list[str], repetitions: int, repeat_slow: bool, device: str
) -> dict[str, Any]:
    """Return the times of a full step of each side, or its failure.

    Args:
        case: Fields of the case.
        sides: Names of the sides.
        repetitions: Number of turns.
        repeat_slow: Repeat steps that take more than ten seconds like all others; otherwise they run once.
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
    outcomes |= time_in_turns(steps, repetitions, device, restores, repeat_slow)
    for name, side in made.items():
        outcomes[name]["finite"] = side.is_finite()
    return {name: outcomes[name] for name in sides}


def _nothing() -> None:
    """Do nothing."""

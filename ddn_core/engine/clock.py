"""Wall-clock seconds that each stage of a step takes."""

from __future__ import annotations

import time
from types import TracebackType

STAGES = ("capture", "gram", "spectrum", "strategies", "step")
"""Stages in the order of the computation; `capture` is the part of the backward pass that makes the factors."""


class StageClock:
    """Sums of wall-clock seconds by stage, on the host: a device may still be computing when a stage ends."""

    def __init__(self, capture: float = 0.0) -> None:
        """Start all stages at zero, except `capture`, which starts at the given seconds."""
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.seconds["capture"] = capture

    def stage(self, name: str) -> _Stage:
        """Return a context manager that adds its duration to a stage."""
        return _Stage(self.seconds, name)


class _Stage:
    """Context manager that adds its duration to a stage; a class, since a generator takes several times as long."""

    __slots__ = ("_begun", "_name", "_seconds")

    def __init__(self, seconds: dict[str, float], name: str) -> None:
        self._seconds, self._name = seconds, name

    def __enter__(self) -> None:
        self._begun = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._seconds[self._name] += time.perf_counter() - self._begun

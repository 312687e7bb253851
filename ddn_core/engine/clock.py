"""Wall-clock seconds that each stage of a step takes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

STAGES = ("capture", "gram", "spectrum", "strategies", "step")
"""Stages in the order of the computation; `capture` is the part of the backward pass that makes the factors."""


class StageClock:
    """Sums of wall-clock seconds by stage, on the host: a device may still be computing when a stage ends."""

    def __init__(self, capture: float = 0.0) -> None:
        """Start all stages at zero, except `capture`, which starts at the given seconds."""
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.seconds["capture"] = capture

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Return a context manager that adds its duration to a stage."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - begun

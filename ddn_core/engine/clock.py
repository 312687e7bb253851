"""Seconds that the stages of a step take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

STAGES = ("capture", "gram", "spectrum", "strategies", "step")
"""In the order of the computation; `capture` is the part of the backward pass that gives the factors."""


class StageClock:
    """Adds up wall-clock seconds by stage, as the host sees them: a device may still be at work."""

    def __init__(self, capture: float = 0.0) -> None:
        """Begin with what the capture took."""
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.seconds["capture"] = capture

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Return a context whose duration is added to a stage."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - begun

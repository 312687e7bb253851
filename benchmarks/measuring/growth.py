"""Time and memory of our step at one point of a curve."""

from __future__ import annotations

from statistics import median
from typing import Any

from benchmarks.cases import Case
from benchmarks.measuring.clock import seconds_of
from benchmarks.measuring.memory import PeakGauge
from benchmarks.sides import GradientSide, OurSide

_SLOW = 5.0


def measure_point(case: dict[str, Any], repetitions: int, device: str) -> dict[str, Any]:
    """Return peak extra memory and median time of our step, after a plain gradient step as warm-up.

    The step whose memory is measured also serves as a warm-up for the timed steps. If it takes more than five seconds,
    it is the only step, and its time is returned.

    Args:
        case: Fields of the case.
        repetitions: Number of timed steps.
        device: Device of model and data.
    """
    ours = OurSide(Case(**case), device)
    warm_up = GradientSide(Case(**case), device)
    warm_up.step()
    del warm_up
    gauge = PeakGauge(device)
    seconds = [seconds_of(ours.step, device)]
    found = {"bytes": gauge.peak(), "method": gauge.method}
    if seconds[0] <= _SLOW:
        seconds = [_restored(ours, device) for _ in range(repetitions)]
    return found | {"seconds": median(seconds), "runs": len(seconds)}


def _restored(ours: OurSide, device: str) -> float:
    ours.restore()
    return seconds_of(ours.step, device)

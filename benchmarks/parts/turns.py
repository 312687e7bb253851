"""Timing of sides that take turns, shared by several parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.cases import Case
from benchmarks.measuring.failure import failed
from benchmarks.measuring.own_process import in_own_process
from benchmarks.measuring.timing import time_sides
from benchmarks.settings import Settings


def times_of_sides(case: Case, sides: Sequence[str], repeat_slow: bool, settings: Settings) -> dict[str, Any]:
    """Return a case with the times of its sides, or their failures, measured in a separate process.

    Args:
        case: Case to measure.
        sides: Names of the sides that take turns.
        repeat_slow: Repeat sides that take more than ten seconds a step like all others; otherwise they run once.
        settings: Settings of the run.
    """
    arguments = {
        "case": asdict(case),
        "sides": list(sides),
        "repetitions": settings.repetitions,
        "repeat_slow": repeat_slow,
        "device": settings.device,
    }
    outcome = in_own_process(time_sides, arguments, settings)
    found = dict.fromkeys(sides, outcome) if failed(outcome) else outcome
    return {"case": asdict(case), **found}

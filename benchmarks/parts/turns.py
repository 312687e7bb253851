"""Helper of the parts in which sides run in turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.cases import Case
from benchmarks.measuring.failure import failed
from benchmarks.measuring.own_process import in_own_process
from benchmarks.measuring.timing import time_sides
from benchmarks.settings import Settings


def times_of_sides(case: Case, sides: Sequence[str], insist: bool, settings: Settings) -> dict[str, Any]:
    """Return a case and the durations of its sides, or failures, measured in its own process.

    Args:
        case: Case to measure.
        sides: Names of the sides that take turns.
        insist: If False, a slow side runs only once.
        settings: Settings of the run.
    """
    arguments = {
        "case": asdict(case),
        "sides": list(sides),
        "repetitions": settings.repetitions,
        "insist": insist,
        "device": settings.device,
    }
    outcome = in_own_process(time_sides, arguments, settings)
    found = dict.fromkeys(sides, outcome) if failed(outcome) else outcome
    return {"case": asdict(case), **found}

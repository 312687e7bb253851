"""What parts that let sides take turns have in common."""

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
    """Return a case and the times of its sides, or why there are none, measured in a process of its own.

    Args:
        case: What is measured.
        sides: Names of the sides that take turns.
        insist: Whether to measure a side that is slow as often as the others.
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

"""The parts of the benchmark, in the order of the page."""

from __future__ import annotations

from benchmarks.parts import (
    accuracy,
    cuda,
    defaults,
    evidence,
    growth,
    imports,
    levenberg_marquardt,
    memory,
    monte_carlo,
    speed,
    steps,
    strategies,
    unavoidable,
)
from benchmarks.reporting.part import Part

PARTS: dict[str, Part] = {
    part.name: part
    for part in (
        speed.PART,
        memory.PART,
        steps.PART,
        cuda.PART,
        monte_carlo.PART,
        unavoidable.PART,
        accuracy.PART,
        levenberg_marquardt.PART,
        growth.PART,
        strategies.PART,
        imports.PART,
        evidence.PART,
        defaults.PART,
    )
}
"""All parts, by the names of their sub-commands."""

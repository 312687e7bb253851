"""Settings of a run of the benchmark, from the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """Settings of a run.

    Attributes:
        results: Folder for the results.
        quick: Measure only small problems with few repetitions, to test the benchmark itself.
        pattern: Glob on the names of the cases; by default, each part chooses its cases.
        repetitions: Number of turns; the result is their median.
        threads: Number of threads that torch uses.
        device: Device of models and data.
        limit: Time limit for one process, in seconds.
        problem_sets: Sets of everyday problems to train.
        presets: Presets of our optimizer on everyday problems; none for the first-order side alone.
        seeds: Number of seeds on everyday problems.
    """

    results: Path
    quick: bool = False
    pattern: str | None = None
    repetitions: int = 5
    threads: int = 2
    device: str = "cpu"
    limit: float = 600.0
    problem_sets: tuple[str, ...] = ("development", "held-out")
    presets: tuple[str, ...] = ("default",)
    seeds: int = 3

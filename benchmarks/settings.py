"""Settings of a run of the benchmark, from the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """Settings of a run.

    Attributes:
        results: Folder that results are written to.
        quick: Measure only small problems with few repetitions, as a test of the benchmark itself.
        pattern: Glob on the names of the cases of the comparison; by default each part chooses its cases.
        repetitions: Number of turns, of which the median is taken.
        threads: Number of threads that torch uses.
        device: Device of models and data.
        limit: Seconds that one process may take.
    """

    results: Path
    quick: bool = False
    pattern: str | None = None
    repetitions: int = 5
    threads: int = 2
    device: str = "cpu"
    limit: float = 600.0

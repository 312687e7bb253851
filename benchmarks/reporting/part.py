"""Parts of the benchmark and their results, which are stored as JSON, a Markdown section and figures."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from matplotlib.figure import Figure

from benchmarks.reporting.environment import environment
from benchmarks.reporting.markdown import fragment
from benchmarks.reporting.summary import Summary
from benchmarks.settings import Settings

Measurements = list[dict[str, Any]]
Progress = Callable[[str], None]
"""Reports a line of progress."""


@dataclass(frozen=True)
class Part:
    """A section of the benchmark: one question, and the functions that measure and present the answer.

    Attributes:
        name: Name of the subcommand and of the files.
        title: Heading.
        text: Description of the measurement.
        measure: Function that measures, and reports its progress.
        summarize: Function that computes tables and targets from measurements.
        draw: Function that draws figures of measurements, by name.
        needs_gpu: Whether the part measures a GPU; where there is none, it is left out.
    """

    name: str
    title: str
    text: str
    measure: Callable[[Settings, Progress], Measurements]
    summarize: Callable[[Measurements], Summary]
    draw: Callable[[Measurements], dict[str, Figure]]
    needs_gpu: bool = False

    @property
    def is_possible(self) -> bool:
        """True if this machine has what the part needs."""
        return not self.needs_gpu or torch.cuda.is_available()


@dataclass(frozen=True)
class Result:
    """Result of a part: plain data from which tables, targets and figures are computed.

    Attributes:
        part: The part.
        environment: Environment of the measurements.
        seconds: Duration of the part.
        measurements: Measurements, as plain data.
    """

    part: Part
    environment: dict[str, Any]
    seconds: float
    measurements: Measurements

    @property
    def summary(self) -> Summary:
        """Tables and targets; a quick run has no targets."""
        summary = self.part.summarize(self.measurements)
        return Summary(summary.tables) if self.environment["quick"] else summary


def run(part: Part, settings: Settings, progress: Progress) -> Result:
    """Measure a part, write its files, and return the result.

    Args:
        part: Part.
        settings: Settings.
        progress: Reports a line of progress.
    """
    if part.needs_gpu and settings.device == "cpu":
        settings = replace(settings, device="cuda")
    found = environment(settings)
    start = perf_counter()
    measurements = part.measure(settings, progress)
    result = Result(part, found, perf_counter() - start, measurements)
    _write(result, settings.results)
    return result


def load(part: Part, folder: Path) -> Result | None:
    """Return the stored result of a part, or None if the part was never run.

    Args:
        part: Part.
        folder: Folder with the stored results.
    """
    path = folder / f"{part.name}.json"
    if not path.exists():
        return None
    kept = json.loads(path.read_text())
    return Result(part, kept["environment"], kept["seconds"], kept["measurements"])


def write_pictures(result: Result, folder: Path) -> list[str]:
    """Write the figures of a result into a folder, and return their file names."""
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for name, figure in result.part.draw(result.measurements).items():
        names.append(f"{result.part.name}-{name}.png")
        figure.savefig(folder / names[-1], dpi=120, metadata={"Software": None})
    return names


def _write(result: Result, folder: Path) -> None:
    pictures = write_pictures(result, folder)
    summary, part = result.summary, result.part
    kept = {
        "part": part.name,
        "environment": result.environment,
        "seconds": result.seconds,
        "measurements": result.measurements,
        "targets": [{"wanted": t.wanted, "measured": t.measured, "met": t.met} for t in summary.targets],
    }
    (folder / f"{part.name}.json").write_text(json.dumps(kept, indent=1) + "\n")
    text = fragment(part.title, part.text, summary, pictures, result.environment, result.seconds)
    (folder / f"{part.name}.md").write_text(text)

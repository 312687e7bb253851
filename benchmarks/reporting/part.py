"""A part of the benchmark: its definition, its run, and its files (JSON, a Markdown fragment, pictures)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from matplotlib.figure import Figure

from benchmarks.reporting.environment import environment
from benchmarks.reporting.markdown import fragment
from benchmarks.reporting.summary import Summary
from benchmarks.settings import Settings

Measurements = list[dict[str, Any]]
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Part:
    """A question, the measurements that answer it, and their presentation.

    Attributes:
        name: Name of the sub-command and of the files.
        title: Heading.
        text: Description of the method.
        measure: Function that measures and reports its progress.
        summarize: Function that makes tables and targets from measurements.
        draw: Function that makes pictures from measurements, by name.
    """

    name: str
    title: str
    text: str
    measure: Callable[[Settings, Tell], Measurements]
    summarize: Callable[[Measurements], Summary]
    draw: Callable[[Measurements], dict[str, Figure]]


@dataclass(frozen=True)
class Result:
    """Result of a part as plain data, from which all outputs can be generated again.

    Attributes:
        part: The part.
        environment: Hardware, versions and settings of the measurements.
        seconds: Duration of the part.
        measurements: The measured values.
    """

    part: Part
    environment: dict[str, Any]
    seconds: float
    measurements: Measurements

    @property
    def summary(self) -> Summary:
        """Tables and targets; none is judged in a quick run."""
        summary = self.part.summarize(self.measurements)
        return Summary(summary.tables) if self.environment["quick"] else summary


def run(part: Part, settings: Settings, tell: Tell) -> Result:
    """Measure a part, write its files, and return the result.

    Args:
        part: Part.
        settings: Settings.
        tell: Function that reports progress.
    """
    found = environment(settings)
    start = perf_counter()
    measurements = part.measure(settings, tell)
    result = Result(part, found, perf_counter() - start, measurements)
    _write(result, settings.results)
    return result


def load(part: Part, folder: Path) -> Result | None:
    """Return the last result of a part, or `None` if there is none.

    Args:
        part: Part.
        folder: Folder with results.
    """
    path = folder / f"{part.name}.json"
    if not path.exists():
        return None
    kept = json.loads(path.read_text())
    return Result(part, kept["environment"], kept["seconds"], kept["measurements"])


def write_pictures(result: Result, folder: Path) -> list[str]:
    """Write the pictures of a result into a folder, and return their file names."""
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

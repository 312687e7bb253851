"""Growth of time and memory of our step, and the largest batch that fits into four gigabytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.architectures import ARCHITECTURES, PROBLEMS
from benchmarks.cases import Case
from benchmarks.measuring.failure import SKIPPED, failed, failure
from benchmarks.measuring.growth import measure_point
from benchmarks.measuring.largest_batch import largest_batch
from benchmarks.measuring.memory import memory_of_step
from benchmarks.measuring.own_process import in_own_process
from benchmarks.parts.growth_curves import CURVES, QUICK_CURVES, Curve
from benchmarks.reporting.part import Measurements, Part, Progress
from benchmarks.reporting.plots import figure, legend
from benchmarks.reporting.summary import Summary, Table, seconds_text, size, size_text
from benchmarks.settings import Settings

_REPETITIONS = 5
_SECONDS_PER_POINT = 60.0
_SECONDS_PER_PROBLEM = 90.0
_BUDGET, _QUICK_BUDGET = 4e9, 1e8
_LAST = 3
_AXES = {"N": "samples N", "width": "factor on the width", "depth": "layers", "C": "model outputs C"}


def measure(settings: Settings, progress: Progress) -> Measurements:
    """Return time and memory at each point of each curve, and the largest batch for each problem."""
    curves = [_measured_curve(curve, settings, progress) for curve in (QUICK_CURVES if settings.quick else CURVES)]
    budget = _QUICK_BUDGET if settings.quick else _BUDGET
    batches = []
    for problem in ("mlp-64",) if settings.quick else PROBLEMS:
        probe = partial(_probe, problem, settings)
        found = largest_batch(probe, ARCHITECTURES[problem].samples, budget, _SECONDS_PER_PROBLEM)
        batches.append({"kind": "batch", "problem": problem, "budget": budget, **found})
        progress(f"{problem}: {found['largest']} samples in {size(budget)}")
    return [*curves, *batches]


def _measured_curve(curve: Curve, settings: Settings, progress: Progress) -> dict[str, Any]:
    """Return a measured curve; the points after a failed one are skipped."""
    points: list[dict[str, Any]] = []
    for value, case in curve.points:
        if points and failed(points[-1]):
            found = failure(SKIPPED)
        else:
            arguments = {"case": asdict(case), "repetitions": _REPETITIONS, "device": settings.device}
            found = in_own_process(measure_point, arguments, settings, min(_SECONDS_PER_POINT, settings.limit))
        points.append({"value": value, **found})
        progress(f"{curve.title}, {curve.axis} = {value}: {seconds_text(found)}, {size_text(found)}")
    return {"kind": "curve", "title": curve.title, "axis": curve.axis, "expected": curve.expected, "points": points}


def _probe(problem: str, settings: Settings, samples: int) -> dict[str, Any]:
    arguments = {"case": asdict(Case(problem, samples=samples)), "side": "ours", "device": settings.device}
    return in_own_process(memory_of_step, arguments, settings, min(_SECONDS_PER_PROBLEM, settings.limit))


def summarize(measurements: Measurements) -> Summary:
    """Return a table of exponents, a table of the largest batches, and a table for each curve."""
    curves = [found for found in measurements if found["kind"] == "curve"]
    exponents = [
        [f"{found['title']}, over {found['axis']}", _slope(found, "seconds"), _slope(found, "bytes"), found["expected"]]
        for found in curves
    ]
    columns = ["curve", "time", "memory", "expected by the mathematics"]
    tables = [
        Table(f"Exponents of growth, over the last {_LAST} points", columns, exponents),
        _batch_table([found for found in measurements if found["kind"] == "batch"]),
    ]
    for found in curves:
        rows = [[str(point["value"]), seconds_text(point), size_text(point)] for point in found["points"]]
        tables.append(Table(found["title"], [found["axis"], "time", "peak extra memory"], rows))
    return Summary(tables)


def _slope(found: dict[str, Any], key: str) -> str:
    """Return the exponent of growth, which is the slope of a straight line through the logarithms."""
    points = [point for point in found["points"] if not failed(point) and point[key] > 0][-_LAST:]
    if len(points) < 2:
        return "not measured"
    slope, _ = np.polyfit(np.log([point["value"] for point in points]), np.log([point[key] for point in points]), 1)
    return f"{slope:.2f}"


def _batch_table(batches: Measurements) -> Table:
    rows = []
    for found in batches:
        points = ", ".join(f"{samples}: {size(used)}" for samples, used in found["points"])
        how = "measured" if found["made"] else f"extrapolated ({found['reason']})"
        largest = "not measured" if found["largest"] is None else str(found["largest"])
        rows.append([ARCHITECTURES[found["problem"]].title, largest, how, points])
    budget = size(batches[0]["budget"]) if batches else ""
    columns = ["problem", "largest N", "from", "measurements (N: memory)"]
    return Table(f"Largest batch in {budget} of extra memory, exact, top 10, one group", columns, rows)


def draw(measurements: Measurements) -> dict[str, Figure]:
    """Return a figure of time and memory for each axis, with logarithmic scales."""
    pictures = {}
    for axis, label in _AXES.items():
        curves = [found for found in measurements if found["kind"] == "curve" and found["axis"] == axis]
        if curves:
            pictures[axis.lower()] = _draw_axis(curves, label)
    return pictures


def _draw_axis(curves: Measurements, label: str) -> Figure:
    picture, axes = figure(columns=2, width=10.0, height=4.2)
    scales: dict[str, tuple[str, Callable[[float], float]]] = {
        "seconds": ("milliseconds a step", lambda value: 1e3 * value),
        "bytes": ("peak extra memory, MB", lambda value: value / 1e6),
    }
    for axis, (key, (name, scaled)) in zip(axes, scales.items(), strict=True):
        for found in curves:
            points = [point for point in found["points"] if not failed(point) and point[key] > 0]
            values = [point["value"] for point in points]
            axis.plot(values, [scaled(point[key]) for point in points], marker="o", label=found["title"])
        axis.set_xscale("log")
        axis.set_yscale("log")
        ticks = sorted({point["value"] for found in curves for point in found["points"]})
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.set_xticks([], minor=True)
        axis.set_xlabel(label)
        axis.set_ylabel(name)
    legend(picture, below=True)
    return picture


PART = Part(
    name="growth",
    title="Growth",
    text=(
        "Time and peak extra memory of our full step with the top 10 directions and one group. Each point runs in a "
        f"separate process with a limit of {_SECONDS_PER_POINT:.0f} s; if a point exceeds it, the points after it are "
        "skipped. A step of more than five seconds runs once. To find the largest batch, steps are measured with "
        f"growing batches for at most {_SECONDS_PER_PROBLEM:.0f} s. If this time does not suffice, a polynomial of "
        "degree two through the largest measured batches is extrapolated, and the table says so."
    ),
    measure=measure,
    summarize=summarize,
    draw=draw,
)

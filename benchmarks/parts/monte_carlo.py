"""Our step with one Monte-Carlo sample against a gradient step."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from benchmarks.cases import Case
from benchmarks.measuring.failure import failed
from benchmarks.parts.turns import times_of_sides
from benchmarks.reporting.part import Measurements, Part, Progress
from benchmarks.reporting.plots import figure, grouped_bars, legend
from benchmarks.reporting.summary import Summary, Table, ratio_of, seconds_text, times, worst_target, yes_or_no
from benchmarks.settings import Settings

_BOUND = 3.0
_SIDES = ["gradient", "ours"]
_PROBLEMS, _SAMPLES = ("2c2d", "3c3d"), (32, 128)
_QUICK_SAMPLES = (2,)


def measure(settings: Settings, progress: Progress) -> Measurements:
    """Return the times of both steps for each network and batch size."""
    measurements = []
    for problem in _PROBLEMS:
        for samples in _QUICK_SAMPLES if settings.quick else _SAMPLES:
            case = Case(problem, samples=samples, curvature="mc-1")
            sides = times_of_sides(case, _SIDES, True, settings)
            measurements.append(sides)
            progress(f"{case.name}, N = {samples}: {seconds_text(sides['ours'])}")
    return measurements


def summarize(measurements: Measurements) -> Summary:
    """Return one table, and the target."""
    rows = []
    ratios: dict[str, float | None] = {}
    for measurement in measurements:
        case = Case(**measurement["case"])
        ratio = _ratio(measurement)
        ratios[f"{case.architecture.title}, N = {case.samples}"] = ratio
        rows.append(
            [
                case.architecture.title,
                str(case.samples),
                seconds_text(measurement["gradient"]),
                seconds_text(measurement["ours"]),
                times(ratio),
                "" if ratio is None else yes_or_no(ratio <= _BOUND),
            ]
        )
    columns = ["problem", "N", "gradient step", "ours", "ours / gradient", "3× or less"]
    wanted = "Each step with one Monte-Carlo sample, top 10, one group: at most the time of 3 gradient steps"
    return Summary(
        [Table("One Monte-Carlo sample, top 10 directions, one group", columns, rows)],
        [worst_target(wanted, ratios, _BOUND, at_least=False)],
    )


def _ratio(measurement: dict[str, Any]) -> float | None:
    """Return our time in units of a gradient step, infinite if our step failed."""
    if failed(measurement["ours"]):
        return float("inf")
    return ratio_of(measurement["ours"], measurement["gradient"])


def draw(measurements: Measurements) -> dict[str, Figure]:
    """Return a figure of both times."""
    picture, (axis,) = figure(width=6.0)
    cases = [Case(**measurement["case"]) for measurement in measurements]
    milliseconds = {
        side: [None if failed(found[side]) else 1e3 * found[side]["seconds"] for found in measurements]
        for side in _SIDES
    }
    grouped_bars(axis, [f"{case.architecture.title}, N = {case.samples}" for case in cases], milliseconds)
    axis.set_ylabel("milliseconds a step")
    axis.set_title("One Monte-Carlo sample, top 10, one group")
    legend(picture)
    return {"steps": picture}


PART = Part(
    name="monte-carlo",
    title="One Monte-Carlo sample",
    text="A full step with one Monte-Carlo sample of the loss Hessian takes turns with a plain gradient step.",
    measure=measure,
    summarize=summarize,
    draw=draw,
)

"""Time of our full step against ViViT's full step."""

from __future__ import annotations

from dataclasses import asdict
from itertools import groupby
from typing import Any

from matplotlib.figure import Figure

from benchmarks.architectures import ARCHITECTURES, PROBLEMS
from benchmarks.cases import Case
from benchmarks.measuring.failure import failed
from benchmarks.parts.selection import cases_of
from benchmarks.parts.turns import times_of_sides
from benchmarks.reporting.part import Measurements, Part, Progress
from benchmarks.reporting.plots import figure, grouped_bars, legend
from benchmarks.reporting.summary import (
    Summary,
    Table,
    Target,
    geometric_mean,
    ratio_of,
    seconds_text,
    times,
    worst_target,
    yes_or_no,
)
from benchmarks.settings import Settings

_EACH, _MEAN = 8.0, 20.0
_SIDES = ["gradient", "ours", "vivit"]


def measure(settings: Settings, progress: Progress) -> Measurements:
    """Return the times of all sides for each case."""
    measurements = []
    for case in cases_of(settings):
        sides = times_of_sides(case, _SIDES, is_headline(case), settings)
        measurements.append(sides)
        progress(f"{case.name}: ours {seconds_text(sides['ours'])}, ViViT {seconds_text(sides['vivit'])}")
    return measurements


def is_headline(case: Case) -> bool:
    """Return whether the targets use this case: exact curvature, one group, ten directions."""
    return (case.curvature, case.grouping, case.criterion) == ("exact", "one-group", "top-10")


def summarize(measurements: Measurements) -> Summary:
    """Return a table for each kind of step, and the targets."""
    tables = []
    for title, group in groupby(measurements, key=_title):
        columns = ["problem", "N", "columns", "gradient step", "ViViT", "ours", "ViViT / ours", "ours / gradient"]
        rows = [_row(measurement) for measurement in group]
        if title == _HEADLINE:
            columns.append("8× or more")
        tables.append(Table(title, columns, rows))
    return Summary(tables, _targets(measurements))


def _row(measurement: dict[str, Any]) -> list[str]:
    case = Case(**measurement["case"])
    ratio = _advantage(measurement)
    row = [
        case.architecture.title,
        str(case.batch_size),
        str(case.columns),
        *(seconds_text(measurement[side]) for side in ("gradient", "vivit", "ours")),
        times(ratio),
        times(ratio_of(measurement["ours"], measurement["gradient"])),
    ]
    return [*row, "" if ratio is None else yes_or_no(ratio >= _EACH)] if is_headline(case) else row


def _title(measurement: dict[str, Any]) -> str:
    case = Case(**measurement["case"])
    curvature = "Exact" if case.curvature == "exact" else "One Monte-Carlo sample"
    criterion = "top 10 directions" if case.criterion == "top-10" else "all directions"
    return f"{curvature}, {'one group' if case.grouping == 'one-group' else 'a group for each layer'}, {criterion}"


_HEADLINE = _title({"case": asdict(Case("mlp-64"))})


def _advantage(measurement: dict[str, Any]) -> float | None:
    """Return ViViT's time divided by ours, 0 if our step failed."""
    return 0.0 if failed(measurement["ours"]) else ratio_of(measurement["vivit"], measurement["ours"])


def _headlines(measurements: Measurements) -> dict[str, dict[str, Any]]:
    cases = {measurement["case"]["problem"]: measurement for measurement in measurements if _is_headline(measurement)}
    return {problem: cases[problem] for problem in PROBLEMS if problem in cases}


def _is_headline(measurement: dict[str, Any]) -> bool:
    return is_headline(Case(**measurement["case"]))


def _targets(measurements: Measurements) -> list[Target]:
    headlines = _headlines(measurements)
    ratios = {problem: _advantage(headlines[problem]) if problem in headlines else None for problem in PROBLEMS}
    each = worst_target(
        "Full step, exact, top 10, one group: at least 8 times as fast as ViViT, for each problem", ratios, _EACH, True
    )
    wanted = "The same, geometric mean over the problems: at least 20 times"
    known = [ratio for ratio in ratios.values() if ratio is not None]
    if not known:
        return [each, Target(wanted, "not measured", None)]
    mean = geometric_mean(known) if all(known) else 0.0
    if len(known) < len(PROBLEMS):
        return [each, Target(wanted, f"{times(mean)} over {len(known)} of {len(PROBLEMS)} problems", None)]
    return [each, Target(wanted, times(mean), mean >= _MEAN)]


def draw(measurements: Measurements) -> dict[str, Figure]:
    """Return a figure of the times for the cases of the targets."""
    headlines = _headlines(measurements)
    if not headlines:
        return {}
    picture, (axis,) = figure()
    names = [ARCHITECTURES[problem].title for problem in headlines]
    seconds = {
        side: [None if failed(found[side]) else found[side]["seconds"] for found in headlines.values()]
        for side in _SIDES
    }
    grouped_bars(axis, names, seconds)
    axis.set_yscale("log")
    axis.set_ylabel("seconds a step")
    axis.set_title("Exact, top 10, one group")
    legend(picture)
    return {"steps": picture}


PART = Part(
    name="speed",
    title="Speed",
    text=(
        "A full step of each side consists of forward pass, backward pass, direction and parameter update. The "
        "parameters are restored after each step, so that every step is the same. A side that needs more than ten "
        "seconds for a step has no warm-up; outside of the first table it makes only one step, and the table says so. "
        "ViViT's step along all directions divides by the square root of eigenvalues that are zero up to rounding. If "
        "this gives a step that is not finite, the table says so."
    ),
    measure=measure,
    summarize=summarize,
    draw=draw,
)

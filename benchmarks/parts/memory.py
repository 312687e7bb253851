"""Peak extra memory of our full step against ViViT's full step."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from matplotlib.figure import Figure

from benchmarks.architectures import PROBLEMS
from benchmarks.cases import Case
from benchmarks.measuring.failure import failed
from benchmarks.measuring.memory import memory_of_step
from benchmarks.measuring.own_process import in_own_process
from benchmarks.parts.selection import cases_of
from benchmarks.parts.speed import is_headline
from benchmarks.reporting.part import Measurements, Part, Progress
from benchmarks.reporting.plots import figure, grouped_bars, legend
from benchmarks.reporting.summary import Summary, Table, Target, ratio_of, size_text, worst_target, yes_or_no
from benchmarks.settings import Settings

_LARGE, _TENTH = 0.5e9, 0.1
_SIDES = ["gradient", "ours", "vivit"]


def measure(settings: Settings, progress: Progress) -> Measurements:
    """Return the peak extra memory of each side for each case."""
    measurements = []
    for case in cases_of(settings, usual="*/exact/top-10"):
        found = {}
        for side in _SIDES:
            arguments = {"case": asdict(case), "side": side, "device": settings.device}
            found[side] = in_own_process(memory_of_step, arguments, settings)
        measurements.append({"case": asdict(case), **found})
        progress(f"{case.name}: ours {size_text(found['ours'])}, ViViT {size_text(found['vivit'])}")
    return measurements


def summarize(measurements: Measurements) -> Summary:
    """Return one table, and the target."""
    columns = ["case", "N", "columns", "gradient step", "ViViT", "ours", "ours / ViViT", "a tenth or less"]
    rows = []
    for measurement in measurements:
        case = Case(**measurement["case"])
        ratio = _share(measurement)
        judged = ratio is not None and _is_large(measurement)
        rows.append(
            [
                f"{case.architecture.title}, {case.grouping}, {case.curvature}, {case.criterion}",
                str(case.batch_size),
                str(case.columns),
                *(size_text(measurement[side]) for side in ("gradient", "vivit", "ours")),
                "" if ratio is None else f"{ratio:.3f}",
                yes_or_no(ratio <= _TENTH) if judged and ratio is not None else "",
            ]
        )
    return Summary([Table("Peak extra memory of a full step", columns, rows)], [_target(measurements)])


def _share(measurement: dict[str, Any]) -> float | None:
    """Return our memory divided by ViViT's, infinite if our step failed."""
    if failed(measurement["ours"]):
        return float("inf")
    return ratio_of(measurement["ours"], measurement["vivit"], "bytes")


def _is_large(measurement: dict[str, Any]) -> bool:
    return failed(measurement["vivit"]) or measurement["vivit"]["bytes"] > _LARGE


def _target(measurements: Measurements) -> Target:
    found = {m["case"]["problem"]: m for m in measurements if is_headline(Case(**m["case"]))}
    shares = {
        problem: _share(found[problem]) if problem in found else None
        for problem in PROBLEMS
        if problem not in found or _is_large(found[problem])
    }
    wanted = "Peak extra memory, exact, top 10, one group: at most a tenth of ViViT's, for each problem over 0.5 GB"
    return worst_target(wanted, shares, _TENTH, at_least=False)


def draw(measurements: Measurements) -> dict[str, Figure]:
    """Return a figure of the memory for the cases of the target."""
    shown = [measurement for measurement in measurements if is_headline(Case(**measurement["case"]))]
    if not shown:
        return {}
    picture, (axis,) = figure()
    megabytes = {
        side: [None if failed(found[side]) else found[side]["bytes"] / 1e6 for found in shown] for side in _SIDES
    }
    grouped_bars(axis, [Case(**found["case"]).architecture.title for found in shown], megabytes)
    axis.set_yscale("log")
    axis.set_ylabel("peak extra memory, MB")
    axis.set_title("Exact, top 10, one group")
    legend(picture)
    return {"peaks": picture}


PART = Part(
    name="memory",
    title="Memory",
    text=(
        "Peak memory of one full step above the memory of the process just before the step. Each side runs in a "
        "process that does nothing else, after a gradient step as warm-up. On the CPU, this is the peak of the "
        "resident memory, which is reset before the step; on CUDA, it is the peak of torch's allocator. For every "
        "side it includes activations, gradient and step."
    ),
    measure=measure,
    summarize=summarize,
    draw=draw,
)

"""Our exact step against the sum of the parts that no exact step can do without."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from matplotlib.figure import Figure

from benchmarks.architectures import PROBLEMS
from benchmarks.cases import Case
from benchmarks.measuring.failure import failed
from benchmarks.measuring.own_process import in_own_process
from benchmarks.measuring.unavoidable import PARTS, time_parts
from benchmarks.parts.selection import cases_of
from benchmarks.reporting.part import Measurements, Part, Tell
from benchmarks.reporting.plots import OURS, figure, legend, name_groups
from benchmarks.reporting.summary import Summary, Table, seconds_text, times, worst_target, yes_or_no
from benchmarks.settings import Settings

_BOUND = 1.3
_CORE = PARTS[:3]
_LABELS = {
    "columns": "C columns back",
    "gram": "Gram matrix",
    "eigensolver": "eigensolver",
    "gradient": "gradient step",
    "product": "V w",
}
_COLOURS = ["#08519c", "#3182bd", "#6baed6", "#969696", "#bdbdbd"]


def measure(settings: Settings, tell: Tell) -> Measurements:
    """Return the times of our step and of each part."""
    measurements = []
    for case in cases_of(settings, "*/one-group/exact/top-10"):
        arguments = {"case": asdict(case), "repetitions": settings.repetitions, "device": settings.device}
        outcome = in_own_process(time_parts, arguments, settings)
        found = dict.fromkeys(("ours", *PARTS), outcome) if failed(outcome) else outcome
        measurements.append({"case": asdict(case), **found})
        tell(f"{case.problem}: ours {seconds_text(found['ours'])}, {times(_ratio(found, PARTS))} the sum of the parts")
    return measurements


def _ratio(found: dict[str, Any], parts: tuple[str, ...]) -> float | None:
    """Return our time in units of a sum of parts; infinite if our step failed."""
    if any(failed(found[part]) for part in parts):
        return None
    if failed(found["ours"]):
        return float("inf")
    return float(found["ours"]["seconds"] / sum(found[part]["seconds"] for part in parts))


def summarize(measurements: Measurements) -> Summary:
    """Return one table, and the target."""
    columns = [
        "problem",
        "columns",
        *_LABELS.values(),
        "solver",
        "ours",
        "ours / first three",
        "ours / all",
        "1.3× or less",
    ]
    rows = []
    ratios: dict[str, float | None] = dict.fromkeys(PROBLEMS)
    for measurement in measurements:
        case = Case(**measurement["case"])
        ratio = ratios[case.problem] = _ratio(measurement, PARTS)
        rows.append(
            [
                case.architecture.title,
                str(case.columns),
                *(seconds_text(measurement[part]) for part in PARTS),
                measurement.get("solver", ""),
                seconds_text(measurement["ours"]),
                times(_ratio(measurement, _CORE)),
                times(ratio),
                "" if ratio is None else yes_or_no(ratio <= _BOUND),
            ]
        )
    wanted = "Exact step, top 10, one group: at most 1.3 times the sum of its unavoidable parts, each problem"
    return Summary(
        [Table("Our step and its unavoidable parts", columns, rows)],
        [worst_target(wanted, ratios, _BOUND, at_least=False)],
    )


def draw(measurements: Measurements) -> dict[str, Figure]:
    """Return a picture of the parts, stacked, beside our step."""
    shown = [found for found in measurements if _ratio(found, PARTS) is not None and not failed(found["ours"])]
    if not shown:
        return {}
    picture, (axis,) = figure()
    heights = [0.0] * len(shown)
    places = range(len(shown))
    for part, colour in zip(PARTS, _COLOURS, strict=True):
        shares = [found[part]["seconds"] / found["ours"]["seconds"] for found in shown]
        axis.bar(places, shares, 0.6, bottom=heights, label=_LABELS[part], color=colour)
        heights = [height + share for height, share in zip(heights, shares, strict=True)]
    axis.axhline(1.0, color=OURS, linestyle="--", label="our step")
    name_groups(axis, [Case(**found["case"]).architecture.title for found in shown])
    axis.set_ylabel("share of our step's time")
    legend(picture)
    return {"shares": picture}


PART = Part(
    name="parts",
    title="Against the sum of its parts",
    text=(
        "Our exact step, top 10, one group, and what no such step can do without, each done alone with plain "
        "torch and scipy, without the engine. *C columns back*: the root of the loss Hessian backpropagated to "
        "the output of the first layer with parameters, as repetitions of the batch, with no gradients for "
        "parameters, as many columns at a time as are fastest. *Gram matrix*: linear layers by `(S Sᵀ) ∘ (A Aᵀ + "
        "1)`, convolutions either with their part of V formed (by unfold and one product a sample) or, if that is "
        "faster, by pairs of samples and positions; on and above the diagonal only, in as many blocks as are "
        "fastest. *Eigensolver*: the fastest of torch's and scipy's whose residuals are at most 1e-6 of the "
        "largest eigenvalue. *Gradient step*: forward pass, backward pass, update. *V w*: one more backward pass. "
        "The target is about the sum of all five."
    ),
    measure=measure,
    summarize=summarize,
    draw=draw,
)

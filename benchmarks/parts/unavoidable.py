"""Our exact step against the sum of the operations that every exact step needs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from matplotlib.figure import Figure

from benchmarks.architectures import PROBLEMS
from benchmarks.cases import Case
from benchmarks.measuring.failure import failed
from benchmarks.measuring.own_process import in_own_process
from benchmarks.measuring.unavoidable import OPERATIONS, time_operations
from benchmarks.parts.selection import cases_of
from benchmarks.reporting.part import Measurements, Part, Progress
from benchmarks.reporting.plots import OURS, figure, legend, name_groups
from benchmarks.reporting.summary import Summary, Table, seconds_text, times, worst_target, yes_or_no
from benchmarks.settings import Settings

_BOUND = 1.3
_CORE = OPERATIONS[:3]
_LABELS = {
    "columns": "C columns back",
    "gram": "Gram matrix",
    "eigensolver": "eigensolver",
    "gradient": "gradient step",
    "product": "V w",
}
_COLOURS = ["#08519c", "#3182bd", "#6baed6", "#969696", "#bdbdbd"]


def measure(settings: Settings, progress: Progress) -> Measurements:
    """Return the times of our step and of each operation."""
    measurements = []
    for case in cases_of(settings, "*/one-group/exact/top-10"):
        arguments = {"case": asdict(case), "repetitions": settings.repetitions, "device": settings.device}
        outcome = in_own_process(time_operations, arguments, settings)
        found = dict.fromkeys(("ours", *OPERATIONS), outcome) if failed(outcome) else outcome
        measurements.append({"case": asdict(case), **found})
        ratio = times(_ratio(found, OPERATIONS))
        progress(f"{case.problem}: ours {seconds_text(found['ours'])}, {ratio} the sum of the operations")
    return measurements


def _ratio(found: dict[str, Any], operations: tuple[str, ...]) -> float | None:
    """Return our time divided by the sum of some operations, infinite if our step failed."""
    if any(failed(found[operation]) for operation in operations):
        return None
    if failed(found["ours"]):
        return float("inf")
    return float(found["ours"]["seconds"] / sum(found[operation]["seconds"] for operation in operations))


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
        ratio = ratios[case.problem] = _ratio(measurement, OPERATIONS)
        rows.append(
            [
                case.architecture.title,
                str(case.columns),
                *(seconds_text(measurement[operation]) for operation in OPERATIONS),
                measurement.get("solver", ""),
                seconds_text(measurement["ours"]),
                times(_ratio(measurement, _CORE)),
                times(ratio),
                "" if ratio is None else yes_or_no(ratio <= _BOUND),
            ]
        )
    wanted = "Exact step, top 10, one group: at most 1.3 times the sum of the unavoidable operations, for each problem"
    return Summary(
        [Table("Our step and the unavoidable operations", columns, rows)],
        [worst_target(wanted, ratios, _BOUND, at_least=False)],
    )


def draw(measurements: Measurements) -> dict[str, Figure]:
    """Return a figure of the stacked operations, relative to our step."""
    shown = [found for found in measurements if _ratio(found, OPERATIONS) is not None and not failed(found["ours"])]
    if not shown:
        return {}
    picture, (axis,) = figure()
    heights = [0.0] * len(shown)
    places = range(len(shown))
    for operation, colour in zip(OPERATIONS, _COLOURS, strict=True):
        shares = [found[operation]["seconds"] / found["ours"]["seconds"] for found in shown]
        axis.bar(places, shares, 0.6, bottom=heights, label=_LABELS[operation], color=colour)
        heights = [height + share for height, share in zip(heights, shares, strict=True)]
    axis.axhline(1.0, color=OURS, linestyle="--", label="our step")
    name_groups(axis, [Case(**found["case"]).architecture.title for found in shown])
    axis.set_ylabel("share of our step's time")
    legend(picture)
    return {"shares": picture}


PART = Part(
    name="parts",
    title="Against the sum of unavoidable operations",
    text=(
        "Our exact step (top 10, one group) is compared with the operations that every such step needs, each timed "
        "alone with plain torch and scipy. *C columns back*: backpropagation of the root of the loss Hessian to the "
        "output of the first layer with parameters. The batch is repeated for as many columns per call as are fastest, "
        "and parameters get no gradients. *Gram matrix*: linear layers use `(S Sᵀ) ∘ (A Aᵀ + 1)`. Convolutions either "
        "form their part of V, with unfold and one product for each sample, or, if that is faster, multiply all pairs "
        "of samples and positions. Only the upper triangle is computed, in as many blocks as are fastest. "
        "*Eigensolver*: the fastest solver of torch and scipy whose residuals are at most 1e-6 of the largest "
        "eigenvalue. *Gradient step*: forward pass, backward pass and update. *V w*: one more backward pass. The "
        "target bounds our time by the sum of all five."
    ),
    measure=measure,
    summarize=summarize,
    draw=draw,
)

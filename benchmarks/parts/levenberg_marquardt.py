"""Our step against the step of `torch-levenberg-marquardt`, for a small model on a big batch."""

from __future__ import annotations

from matplotlib.figure import Figure

from benchmarks.measuring.failure import failed
from benchmarks.measuring.least_squares import time_fits
from benchmarks.measuring.own_process import in_own_process
from benchmarks.reporting.part import Measurements, Part, Progress
from benchmarks.reporting.plots import figure, grouped_bars, legend
from benchmarks.reporting.summary import Summary, Table, Target, ratio_of, seconds_text, times
from benchmarks.settings import Settings

_SIDES = ["ours", "theirs"]


def measure(settings: Settings, progress: Progress) -> Measurements:
    """Return the times of both steps."""
    arguments = {"repetitions": settings.repetitions, "device": settings.device}
    outcome = in_own_process(time_fits, arguments, settings)
    found = dict.fromkeys(_SIDES, outcome) if failed(outcome) else outcome
    progress(f"levenberg-marquardt: ours {seconds_text(found['ours'])}, theirs {seconds_text(found['theirs'])}")
    return [found]


def summarize(measurements: Measurements) -> Summary:
    """Return one table, and the target."""
    (found,) = measurements
    ratio = float("inf") if failed(found["ours"]) else ratio_of(found["ours"], found["theirs"])
    row = [
        "MLP 1-20-1, tanh, N = 1000",
        seconds_text(found["theirs"]),
        str(found.get("attempts", "")),
        seconds_text(found["ours"]),
        times(ratio),
        *("" if failed(found[side]) else f"{found[side]['error']:.1e}" for side in ("theirs", "ours")),
    ]
    columns = ["problem", "theirs", "their attempts", "ours", "ours / theirs", "their error", "our error"]
    measured = "not measured" if ratio is None else times(ratio)
    target = Target(
        "Small model on a big batch: at most the time of torch-levenberg-marquardt 1.2.3",
        measured,
        None if ratio is None else ratio <= 1.0,
    )
    return Summary([Table("Curve fitting, all directions, one damping", columns, [row])], [target])


def draw(measurements: Measurements) -> dict[str, Figure]:
    """Return a figure of both times."""
    (found,) = measurements
    picture, (axis,) = figure(width=6.0)
    milliseconds = {side: [None if failed(found[side]) else 1e3 * found[side]["seconds"]] for side in _SIDES}
    grouped_bars(axis, ["MLP 1-20-1, N = 1000"], milliseconds)
    axis.set_ylabel("milliseconds a step")
    legend(picture)
    return {"steps": picture}


PART = Part(
    name="levenberg-marquardt",
    title="A small model on a big batch",
    text=(
        "The example of `torch-levenberg-marquardt` 1.2.3, with its settings, against `DirectionalDampedNewton` with "
        "all directions and the same damping for each. In the example, an MLP 1-20-1 with tanh fits sinc on batches of "
        "1000 samples. Our damping is twice theirs, because their matrix is `JᵀJ / N`, and the GGN of the mean squared "
        "error is twice that. Both sides evaluate the loss after the step. The errors compare the float32 steps with a "
        "dense solver in float64."
    ),
    measure=measure,
    summarize=summarize,
    draw=draw,
)

"""A small model on a big batch: our step against that of `torch-levenberg-marquardt`."""

from __future__ import annotations

from matplotlib.figure import Figure

from benchmarks.measuring.failure import failed
from benchmarks.measuring.least_squares import time_fits
from benchmarks.measuring.own_process import in_own_process
from benchmarks.reporting.part import Measurements, Part, Tell
from benchmarks.reporting.plots import figure, grouped_bars, legend
from benchmarks.reporting.summary import Summary, Table, Target, ratio_of, seconds_text, times
from benchmarks.settings import Settings

_SIDES = ["ours", "theirs"]


def measure(settings: Settings, tell: Tell) -> Measurements:
    """Return the times of both steps."""
    arguments = {"repetitions": settings.repetitions, "device": settings.device}
    outcome = in_own_process(time_fits, arguments, settings)
    found = dict.fromkeys(_SIDES, outcome) if failed(outcome) else outcome
    tell(f"levenberg-marquardt: ours {seconds_text(found['ours'])}, theirs {seconds_text(found['theirs'])}")
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
        "Small model, big batch: at most the time of torch-levenberg-marquardt 1.2.3",
        measured,
        None if ratio is None else ratio <= 1.0,
    )
    return Summary([Table("Curve fitting, all directions, one damping", columns, [row])], [target])


def draw(measurements: Measurements) -> dict[str, Figure]:
    """Return a picture of both times."""
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
        "The example of `torch-levenberg-marquardt` 1.2.3 (an MLP 1-20-1 with tanh fits sinc on 1000 samples a "
        "batch) with its settings, against `DirectionalDampedNewton` with all directions and one damping, twice "
        "theirs: their matrix is `JᵀJ / N`, the GGN of the mean squared error twice that. Both evaluate the loss "
        "after the step. The errors are those of the float32 steps against a dense solver in float64."
    ),
    measure=measure,
    summarize=summarize,
    draw=draw,
)

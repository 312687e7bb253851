"""Time of criteria and dampings, against the eigendecomposition that precedes them."""

from __future__ import annotations

from matplotlib.figure import Figure

from benchmarks.measuring.failure import failed
from benchmarks.measuring.own_process import in_own_process
from benchmarks.measuring.strategy_cost import strategies, time_strategies
from benchmarks.reporting.part import Measurements, Part, Progress
from benchmarks.reporting.plots import OURS, figure
from benchmarks.reporting.summary import Summary, Table, ratio_of, seconds_text, times, worst_target
from benchmarks.settings import Settings

_SIZES = {"K = 10, N = 128": (10, 128, 10), "K = 1152, N = 128": (1152, 128, 10)}
_QUICK_SIZES = {"K = 10, N = 16": (10, 16, 3)}
_BOUND = 1.0


def measure(settings: Settings, progress: Progress) -> Measurements:
    """Return the times of all strategies for each size."""
    measurements = []
    for title, (directions, samples, outputs) in (_QUICK_SIZES if settings.quick else _SIZES).items():
        sizes = {"directions": directions, "samples": samples, "outputs": outputs}
        arguments = {**sizes, "repetitions": settings.repetitions, "device": "cpu"}
        outcome = in_own_process(time_strategies, arguments, settings)
        found = dict.fromkeys(["eigh", *strategies()], outcome) if failed(outcome) else outcome
        measurements.append({"title": title, "times": found})
        progress(f"strategies, {title}: eigh {seconds_text(found['eigh'])}")
    return measurements


def summarize(measurements: Measurements) -> Summary:
    """Return one table, and the target."""
    titles = [measurement["title"] for measurement in measurements]
    rows = [
        [
            name,
            *(
                text
                for found in (measurement["times"] for measurement in measurements)
                for text in (seconds_text(found[name]), times(ratio_of(found[name], found["eigh"])))
            ),
        ]
        for name in ("eigh", *strategies())
    ]
    last = measurements[-1]["times"]
    target = worst_target(
        f"Each built-in strategy: at most the time of the eigendecomposition ({titles[-1]})",
        {name: ratio_of(last[name], last["eigh"]) for name in strategies()},
        _BOUND,
        at_least=False,
    )
    columns = ["strategy", *(text for title in titles for text in (title, "/ eigh"))]
    return Summary([Table("One call of each strategy", columns, rows)], [target])


def draw(measurements: Measurements) -> dict[str, Figure]:
    """Return a figure of the times for the largest size."""
    found = measurements[-1]["times"]
    picture, (axis,) = figure(width=7.5, height=8.0)
    known = sorted((name for name in found if not failed(found[name])), key=lambda name: found[name]["seconds"])
    axis.barh(known, [1e3 * found[name]["seconds"] for name in known], color=OURS)
    axis.grid(axis="y", visible=False)
    axis.set(xscale="log", xlabel=f"milliseconds a call, {measurements[-1]['title']}")
    return {"calls": picture}


PART = Part(
    name="strategies",
    title="Criteria and dampings",
    text=(
        "Each built-in strategy, with the fields of its documented example, is called for synthetic float32 directions "
        "whose gammas and lambdas are already computed. `eigh` is the full eigendecomposition of a Gram matrix with "
        "10 · N columns."
    ),
    measure=measure,
    summarize=summarize,
    draw=draw,
)

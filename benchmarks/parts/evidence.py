"""Training to a target: our optimizer against tuned ones of torch, and against `torch-levenberg-marquardt`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from matplotlib.figure import Figure

from benchmarks.measuring.failure import failed, failure_of
from benchmarks.measuring.overhead import CASES, measure_overhead
from benchmarks.measuring.training_runs import autoencoder, digits, regression, sinc
from benchmarks.reporting.part import Measurements, Part, Tell
from benchmarks.reporting.plots import figure, legend
from benchmarks.reporting.summary import Summary, Table, Target
from benchmarks.settings import Settings

_RUNS: dict[str, Callable[[int, bool], dict[str, Any]]] = {
    "autoencoder": autoencoder,
    "regression": regression,
    "sinc": sinc,
    "digits": digits,
}
_SEEDS = 5
_OURS, _THEIRS = "#0072b2", "#d55e00"  # of the colour-blind-safe palette by Okabe and Ito


def measure(settings: Settings, tell: Tell) -> Measurements:
    """Return the runs of each problem for each seed, and the cost of what is around the engine."""
    import torch

    torch.set_num_threads(settings.threads)
    found = []
    for name, run in _RUNS.items():
        for seed in range(1 if settings.quick else _SEEDS):
            try:
                outcome = run(seed, settings.quick)
            except Exception as error:
                outcome = failure_of(error)
            found.append({"problem": name, **outcome})
            tell(f"evidence: {name}, seed {seed}: {_line(outcome)}")
    for case in CASES:
        found.append({"problem": "overhead", **measure_overhead(case, 1 if settings.quick else 5)})
        tell(f"evidence: overhead, {case}: {_share(found[-1]):.1%}")
    return found


def _line(outcome: dict[str, Any]) -> str:
    if failed(outcome):
        return "failed"
    ends = {side: outcome[side][-1] for side in ("theirs", "ours")}
    return "; ".join(
        f"{side} {end['step']:.0f} steps, {end['seconds']:.2f} s, {end['loss']:.3g}" for side, end in ends.items()
    )


def _share(outcome: dict[str, Any]) -> float:
    """Return which part of a whole step is not the engine's."""
    return 1 - float(outcome["alone"]) / float(outcome["whole"])


def summarize(measurements: Measurements) -> Summary:
    """Return a table of all runs, and the targets."""
    runs = {name: [m for m in measurements if m["problem"] == name and not failed(m)] for name in _RUNS}
    rows = [_row(name, found) for name, found in runs.items() if found]
    columns = ["problem", "their steps", "their seconds", "our steps", "our seconds", "their end", "our end"]
    overheads = [m for m in measurements if m["problem"] == "overhead"]
    cost = [[m["case"], f"{1e3 * m['whole']:.1f}", f"{1e3 * m['alone']:.1f}", f"{_share(m):.1%}"] for m in overheads]
    tables = [
        Table("To the target: median over the seeds, and range", columns, rows),
        Table("Around the engine, N = 128", ["strategies", "`ddn train` ms", "engine ms", "around it"], cost),
    ]
    return Summary(
        tables, [target for name in _RUNS for target in _targets(name, runs[name])] + _cost_target(overheads)
    )


def _row(name: str, found: Sequence[dict[str, Any]]) -> list[str]:
    """Return steps, seconds and last values of both sides."""
    value = "accuracy" if name == "digits" else "loss"
    cells = [name]
    for side in ("theirs", "ours"):
        cells += [_range([m[side][-1]["step"] for m in found], ".0f"), _range([m[side][-1]["seconds"] for m in found])]
    return cells + [_range([m[side][-1][value] for m in found]) for side in ("theirs", "ours")]


def _range(values: Sequence[float], form: str = ".3g") -> str:
    return f"{median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def _targets(name: str, found: Sequence[dict[str, Any]]) -> list[Target]:
    """Return the targets of a problem; a run that did not get there counts as one that took for ever."""
    if not found:
        return []
    if name == "regression":
        gain = median(m["theirs"][-1]["loss"] / m["ours"][-1]["loss"] for m in found)
        wanted = "regression-1d: final loss at equal wall-clock at least 1000 times lower than tuned Adam's"
        return [Target(wanted, f"{gain:.2g} times", gain >= 1000)]
    ratios = {unit: median(_ratio(m, unit) for m in found) for unit in ("step", "seconds")}
    limits = {
        "autoencoder": [
            ("step", 0.1, "tuned Adam's loss after 200 epochs: in at most a tenth of the steps"),
            ("seconds", 0.5, "tuned Adam's loss after 200 epochs: in at most half of the wall-clock"),
        ],
        "sinc": [("seconds", 1.0, "torch-levenberg-marquardt's loss after 300 steps: in at most its time")],
        "digits": [
            ("step", 0.2, "97 % test accuracy: in at most a fifth of tuned Adam's steps"),
            ("seconds", 1.0, "97 % test accuracy: in at most tuned Adam's time"),
        ],
    }
    return [
        Target(f"{name}: {wanted}", f"{ratios[unit]:.3g} times", ratios[unit] <= limit)
        for unit, limit, wanted in limits[name]
    ]


def _ratio(run: dict[str, Any], unit: str) -> float:
    """Return what our run took, over what theirs did."""
    if not run.get("reached", run.get("ours reached")):
        return float("inf")
    if not run.get("theirs reached", True):
        return 0.0
    return float(run["ours"][-1][unit] / run["theirs"][-1][unit])


def _cost_target(overheads: Sequence[dict[str, Any]]) -> list[Target]:
    shares = [_share(m) for m in overheads]
    told = ", ".join(f"{share:.1%}" for share in shares)
    return [Target("what is around the engine at N = 128: at most 5 % of a step", told, max(shares) <= 0.05)]


def draw(measurements: Measurements) -> dict[str, Figure]:
    """Return learning curves over steps and seconds, where both sides have some."""
    pictures = {}
    for name in ("autoencoder", "regression"):
        found = [m for m in measurements if m["problem"] == name and not failed(m)]
        if not found:
            continue
        picture, axes = figure(columns=2, width=9.0)
        for axis, unit in zip(axes, ("step", "seconds"), strict=True):
            for number, run in enumerate(found):
                for side, label, color in (("theirs", "Adam, tuned", _THEIRS), ("ours", "ddn", _OURS)):
                    xs, ys = ([point[key] for point in run[side]] for key in (unit, "loss"))
                    axis.loglog(xs, ys, color=color, lw=1, label=label if number == 0 else None)
            axis.set(xlabel=unit, ylabel="training loss")
        legend(picture)
        pictures[name] = picture
    return pictures


PART = Part(
    name="evidence",
    title="Training to a target",
    text=(
        "The configs of `docs/evidence/`, each for five seeds, in turns in one process. Only steps are timed: passes, "
        "curvature, update; evaluations lie between them. [](evidence.md) tells how the values were tuned, and why "
        "some targets are missed. A ratio is infinite where our run did not get there. What is around the engine: a "
        "whole step of `ddn train` with its line in the metrics, against the engine's functions called by hand."
    ),
    measure=measure,
    summarize=summarize,
    draw=draw,
)

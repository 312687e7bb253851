"""Training to a target with our optimizer, with tuned optimizers of torch, and with `torch-levenberg-marquardt`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from matplotlib.figure import Figure

from benchmarks.measuring.failure import failed, failure_of
from benchmarks.measuring.overhead import CASES, measure_overhead
from benchmarks.measuring.training_runs import autoencoder, digits, regression, sinc
from benchmarks.reporting.part import Measurements, Part, Progress
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
_OURS, _THEIRS = "#0072b2", "#d55e00"  # from the colour-blind-safe palette of Okabe and Ito


def measure(settings: Settings, progress: Progress) -> Measurements:
    """Return the runs of each problem and seed, and the overhead outside of the engine."""
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
            progress(f"evidence: {name}, seed {seed}: {_line(outcome)}")
    for case in CASES:
        found.append({"problem": "overhead", **measure_overhead(case, 1 if settings.quick else 5)})
        progress(f"evidence: overhead, {case}: {_share(found[-1]):.1%}")
    return found


def _line(outcome: dict[str, Any]) -> str:
    if failed(outcome):
        return "failed"
    ends = {side: outcome[side][-1] for side in ("theirs", "ours")}
    return "; ".join(
        f"{side} {end['step']:.0f} steps, {end['seconds']:.2f} s, {end['loss']:.3g}" for side, end in ends.items()
    )


def _share(outcome: dict[str, Any]) -> float:
    """Return the share of a whole step that is spent outside of the engine."""
    return 1 - float(outcome["alone"]) / float(outcome["whole"])


def summarize(measurements: Measurements) -> Summary:
    """Return a table of all runs, a table of the overhead, and the targets."""
    runs = {name: [m for m in measurements if m["problem"] == name and not failed(m)] for name in _RUNS}
    rows = [_row(name, found) for name, found in runs.items() if found]
    columns = [
        "problem",
        "their steps",
        "their seconds",
        "our steps",
        "our seconds",
        "their final value",
        "our final value",
    ]
    overheads = [m for m in measurements if m["problem"] == "overhead"]
    cost = [[m["case"], f"{1e3 * m['whole']:.1f}", f"{1e3 * m['alone']:.1f}", f"{_share(m):.1%}"] for m in overheads]
    tables = [
        Table("Steps and seconds to the target: median and range over the seeds", columns, rows),
        Table(
            "Overhead outside of the engine, N = 128", ["strategies", "`ddn train` ms", "engine ms", "overhead"], cost
        ),
    ]
    return Summary(
        tables, [target for name in _RUNS for target in _targets(name, runs[name])] + _cost_target(overheads)
    )


def _row(name: str, found: Sequence[dict[str, Any]]) -> list[str]:
    """Return the steps, seconds and final values of both sides."""
    value = "accuracy" if name == "digits" else "loss"
    cells = [name]
    for side in ("theirs", "ours"):
        cells += [_range([m[side][-1]["step"] for m in found], ".0f"), _range([m[side][-1]["seconds"] for m in found])]
    return cells + [_range([m[side][-1][value] for m in found]) for side in ("theirs", "ours")]


def _range(values: Sequence[float], form: str = ".3g") -> str:
    return f"{median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def _targets(name: str, found: Sequence[dict[str, Any]]) -> list[Target]:
    """Return the targets of a problem; a run that did not reach its goal counts as infinitely long."""
    if not found:
        return []
    if name == "regression":
        gain = median(m["theirs"][-1]["loss"] / m["ours"][-1]["loss"] for m in found)
        wanted = "regression-1d: final loss after the same time at least 1000 times lower than tuned Adam's"
        return [Target(wanted, f"{gain:.2g} times", gain >= 1000)]
    ratios = {unit: median(_ratio(m, unit) for m in found) for unit in ("step", "seconds")}
    limits = {
        "autoencoder": [
            ("step", 0.1, "tuned Adam's loss after 200 epochs in at most a tenth of Adam's steps"),
            ("seconds", 0.5, "tuned Adam's loss after 200 epochs in at most half of Adam's time"),
        ],
        "sinc": [("seconds", 1.0, "torch-levenberg-marquardt's loss after 300 steps in at most the same time")],
        "digits": [
            ("step", 0.2, "97 % test accuracy in at most a fifth of tuned Adam's steps"),
            ("seconds", 1.0, "97 % test accuracy in at most tuned Adam's time"),
        ],
    }
    return [
        Target(f"{name}: {wanted}", f"{ratios[unit]:.3g} times", ratios[unit] <= limit)
        for unit, limit, wanted in limits[name]
    ]


def _ratio(run: dict[str, Any], unit: str) -> float:
    """Return our number of steps or seconds divided by theirs."""
    if not run.get("reached", run.get("ours reached")):
        return float("inf")
    if not run.get("theirs reached", True):
        return 0.0
    return float(run["ours"][-1][unit] / run["theirs"][-1][unit])


def _cost_target(overheads: Sequence[dict[str, Any]]) -> list[Target]:
    shares = [_share(m) for m in overheads]
    measured = ", ".join(f"{share:.1%}" for share in shares)
    return [Target("overhead outside of the engine at N = 128: at most 5 % of a step", measured, max(shares) <= 0.05)]


def draw(measurements: Measurements) -> dict[str, Figure]:
    """Return learning curves over steps and over seconds, for the problems where both sides have a curve."""
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
        "The configs of `docs/evidence/` train with five seeds each, in turns in one process. Only the steps are "
        "timed, with their passes, curvature and update; evaluations are not. [](evidence.md) describes how the "
        "settings were tuned, and why some targets are missed. A ratio is infinite if our run did not reach the goal. "
        "The overhead outside of the engine compares a whole step of `ddn train`, with its line in the metrics, with "
        "direct calls of the engine's functions."
    ),
    measure=measure,
    summarize=summarize,
    draw=draw,
)

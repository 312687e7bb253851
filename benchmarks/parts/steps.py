"""Time and memory of the optimizer's step, in units of a plain SGD step."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from matplotlib.figure import Figure

from benchmarks.measuring.failure import failed
from benchmarks.measuring.own_process import in_own_process
from benchmarks.measuring.training_steps import SIDES, memory_of_training_step, time_training_steps
from benchmarks.reporting.part import Measurements, Part, Progress
from benchmarks.reporting.plots import figure, grouped_bars, legend
from benchmarks.reporting.summary import (
    Summary,
    Table,
    Target,
    ratio_of,
    seconds_text,
    size_text,
    times,
    worst_target,
)
from benchmarks.settings import Settings
from benchmarks.workloads import WORKLOADS

_DEFAULTS = ("default-mlp-30", "default-mlp-64", "default-2c2d", "default-transformer")
_MEASURED = ("mlp-30", "2c2d-32", "2c2d-128", "3c3d-32", "3c3d-128", "transformer", *_DEFAULTS)
_QUICK = "mlp-30"
_BOUNDS = {
    "MLP 30-64-64-2, exact, one damping: a step takes at most 5 SGD steps": (5.0, ("mlp-30",)),
    "2C2D and 3C3D, MC-1, top 10: a step takes at most 2.2 SGD steps": (2.2, _MEASURED[1:5]),
    "Transformer, MC-1: a step takes at most 3 SGD steps": (3.0, ("transformer",)),
    "Without settings: a step takes at most 2.5 SGD steps": (2.5, _DEFAULTS),
}


def measure(settings: Settings, progress: Progress) -> Measurements:
    """Return times, memory and counts of each workload."""
    measurements = []
    for name in _MEASURED:
        if not fnmatchcase(name, settings.pattern or (_QUICK if settings.quick else "*")):
            continue
        found = times_of_workload(name, settings)
        for side in SIDES:
            arguments = {"workload": name, "side": side, "device": settings.device}
            found["memory"][side] = in_own_process(memory_of_training_step, arguments, settings)
        measurements.append(found)
        progress(progress_line(found))
    return measurements


def times_of_workload(name: str, settings: Settings, limit: float | None = None) -> dict[str, Any]:
    """Return what `time_training_steps` measures in a separate process, or its failure for each side.

    Args:
        name: Name of the workload.
        settings: Settings of the run.
        limit: Time limit in seconds; by default, that of the settings.
    """
    arguments = {"workload": name, "repetitions": settings.repetitions, "device": settings.device}
    outcome = in_own_process(time_training_steps, arguments, settings, limit)
    found = {**dict.fromkeys(SIDES, outcome), "counts": {}} if failed(outcome) else outcome
    return {"workload": name, "memory": dict.fromkeys(SIDES), **found}


def progress_line(found: dict[str, Any]) -> str:
    """Return a line about a workload."""
    ratio = times(ratio_of(found["ours"], found["gradient"]))
    return f"{found['workload']}: ours {seconds_text(found['ours'])}, SGD {seconds_text(found['gradient'])}, {ratio}"


def summarize(measurements: Measurements) -> Summary:
    """Return one table, and the targets."""
    return Summary([steps_table("Our step in SGD steps", measurements)], _targets(measurements))


def steps_table(title: str, measurements: Sequence[dict[str, Any]]) -> Table:
    """Return a table of workloads.

    Args:
        title: Title.
        measurements: Results of `times_of_workload`.
    """
    columns = ["problem", "step", "SGD step", "ours", "ours / SGD", "SGD memory", "our memory", "calls", "reads"]
    counted = ["calls", "reads"]
    if any("waits" in found["counts"] for found in measurements):
        columns, counted = [*columns, "waits"], [*counted, "waits"]
    rows = [
        [
            WORKLOADS[found["workload"]].title,
            WORKLOADS[found["workload"]].strategy,
            *(seconds_text(found[side]) for side in SIDES),
            times(ratio_of(found["ours"], found["gradient"])),
            *(size_text(found["memory"][side]) for side in SIDES),
            *(str(found["counts"].get(count, "")) for count in counted),
        ]
        for found in measurements
    ]
    return Table(title, columns, rows)


def _targets(measurements: Measurements) -> list[Target]:
    found = {measurement["workload"]: measurement for measurement in measurements}
    return [
        worst_target(
            wanted,
            {name: _ratio(found[name]) if name in found else None for name in names},
            bound,
            at_least=False,
        )
        for wanted, (bound, names) in _BOUNDS.items()
    ]


def _ratio(found: dict[str, Any]) -> float | None:
    """Return our time in SGD steps, infinite if our step failed."""
    return float("inf") if failed(found["ours"]) else ratio_of(found["ours"], found["gradient"])


def draw(measurements: Measurements) -> dict[str, Figure]:
    """Return a figure of the times."""
    if not measurements:
        return {}
    picture, (axis,) = figure()
    seconds = {side: [None if failed(m[side]) else m[side]["seconds"] for m in measurements] for side in SIDES}
    grouped_bars(axis, [WORKLOADS[m["workload"]].title for m in measurements], seconds)
    axis.set_yscale("log")
    axis.set_ylabel("seconds a step")
    legend(picture)
    return {"times": picture}


PART = Part(
    name="steps",
    title="Steps of the optimizer",
    text=(
        "A whole step of `DirectionalDampedNewton`, with `optimizer.backward(loss)`, and a step of `torch.optim.SGD` "
        "take turns in one process. Both clear the gradients, run the model forward and backward, and update the "
        "parameters, which are restored after each step. MC-1 stands for one Monte-Carlo sample of the loss Hessian. "
        "Memory is the peak extra memory of a step, as above. Calls are operations of aten in one step, and reads are "
        "those that a GPU would have to wait for: `item()`, `bool()`, `tolist()`."
    ),
    measure=measure,
    summarize=summarize,
    draw=draw,
)

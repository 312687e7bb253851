"""Learning curves: training loss, test loss and metrics, over steps, epochs or seconds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

from ddn_core.reports.curves import Curve, plot_text, summarized
from ddn_core.reports.palette import line_style, marker_style, series
from ddn_core.reports.parts import Figure, Frame, Key, Look, Section, Switch
from ddn_core.runs import EvaluationEvent, RunRecord

AXES = ("step", "epoch", "seconds")
_AXIS_TITLES = {"step": "steps made", "epoch": "epoch", "seconds": "seconds spent in steps"}
_FEW = 60  # lines with up to this number of points have a mark for each
DASHED = 100
"""Largest number of points of a dashed line; on longer lines, dashes cannot be seen."""


@dataclass(frozen=True)
class Curves:
    """Runs of one name: the seeds of a config."""

    name: str
    runs: tuple[RunRecord, ...]

    @classmethod
    def of(cls, runs: Sequence[RunRecord]) -> list[Curves]:
        """Return the runs grouped by name, in their order."""
        by_name: dict[str, list[RunRecord]] = {}
        for run in runs:
            by_name.setdefault(run.name, []).append(run)
        return [cls(name, tuple(group)) for name, group in by_name.items()]


def labels(runs: Sequence[RunRecord]) -> list[str]:
    """Return a label for each run; labels of runs with the same name have the seed."""
    counts = Counter(run.name for run in runs)
    seen: Counter[str] = Counter()
    found = []
    for run in runs:
        seen[run.name] += 1
        seed = run.config.get("training", {}).get("seed")
        of_many = f"seed {seed}" if seed is not None else f"number {seen[run.name]}"
        found.append(f"{run.name}, {of_many}" if counts[run.name] > 1 else run.name)
    return found


def merged_evaluations(run: RunRecord) -> list[EvaluationEvent]:
    """Return one evaluation for each step, because an epoch may end right after an evaluation within it."""
    return list({event.step: event for event in run.evaluations}.values())


def learning_section(runs: Sequence[RunRecord]) -> Section | None:
    """Return the learning curves, if a run has made a step or an evaluation."""
    if not any(run.steps or run.evaluations for run in runs):
        return None
    curves = Curves.of(runs)
    metrics = list(dict.fromkeys(name for run in runs for event in run.evaluations for name in event.test_metrics))
    figures = [_training_figure(curves)]
    if any(run.evaluations for run in runs):
        figures.append(_evaluated("test-loss", "Test loss", "loss", curves, lambda event: event.test_loss, loss=True))
    if any(event.whole_train_loss is not None for run in runs for event in run.evaluations):
        title = "Loss of all training data"
        figures.append(_evaluated("whole-loss", title, "loss", curves, lambda event: event.whole_train_loss, loss=True))
    for number, name in enumerate(metrics):
        figures.append(_evaluated(f"metric-{number}", f"Test {name}", name, curves, _metric(name), loss=False))
    text = (
        "Training loss is the mean over the batches since the last evaluation; the faint line is the loss of each "
        "batch. Loss axes are logarithmic where all losses are positive."
    )
    if any(len(curve.runs) > 1 for curve in curves):
        text += (
            " Runs of the same name are seeds of one config: the line is their median, and the band reaches from the "
            "least to the greatest value. There is a gap if a seed has no finite value."
        )
    switch = Switch("axis", "Horizontal axis", [axis.capitalize() for axis in AXES])
    look: Look = "line" if max(len(run.evaluations) for run in runs) <= DASHED else "solid"
    figures = [solid(figure) for figure in figures] if look == "solid" else figures
    keys = keys_of([group.name for group in curves], look=look)
    return Section("learning", "Learning curves", text, figures, [switch], notes=_notes(runs), keys=keys)


def keys_of(names: Sequence[str], chosen: Collection[int] | None = None, look: Look = "line") -> list[Key]:
    """Return the legend of a section about runs or candidates, which is empty for a single one."""
    keys = [
        Key(name, plot_text(name), index, look) for index, name in enumerate(names) if chosen is None or index in chosen
    ]
    return keys if len(keys) > 1 else []


def solid(figure: Figure) -> Figure:
    """Return a figure with solid lines."""
    frames = {
        key: {
            **frame,
            "data": [trace | {"line": {**trace.get("line", {}), "dash": "solid"}} for trace in frame["data"]],
        }
        for key, frame in figure.frames.items()
    }
    return replace(figure, frames=frames)


def curve_traces(curve: Curve, index: int, name: str, **more: Any) -> list[dict[str, Any]]:
    """Return the traces of a line and of its band."""
    traces: list[dict[str, Any]] = []
    name = plot_text(name)
    if curve.low is not None and curve.high is not None:
        edge: dict[str, Any] = {
            "x": curve.x,
            "mode": "lines",
            "line": {"width": 0, "color": series(index)},
            "hoverinfo": "skip",
        }
        edge |= {"legendgroup": name, "showlegend": False, "type": "scatter"}
        traces += [
            {**edge, "y": curve.low},
            {**edge, "y": curve.high, "fill": "tonexty", "fillcolor": series(index, 0.18)},
        ]
    finite = sum(value is not None for value in curve.y)
    marker = {**marker_style(index), **({"maxdisplayed": 12} if finite > _FEW else {})}
    traces.append(
        {
            "type": "scatter",
            "x": curve.x,
            "y": curve.y,
            "name": name,
            "legendgroup": name,
            "mode": "lines+markers",
            "line": line_style(index),
            "marker": marker,
            **more,
        }
    )
    return traces


def finite_values(traces: Sequence[Mapping[str, Any]], axis: str = "y") -> list[float]:
    """Return all finite values along an axis."""
    return [value for trace in traces for value in trace[axis] if value is not None]


def frame_of(
    traces: list[dict[str, Any]], x: Mapping[str, Any], y: Mapping[str, Any], logarithmic: bool = False, note: str = ""
) -> Frame:
    """Return a state of a figure; a logarithmic vertical axis is used only if all values are positive."""
    values = finite_values(traces)
    layout: dict[str, Any] = {"xaxis": dict(x), "yaxis": dict(y)}
    if logarithmic and values and min(values) > 0:
        layout["yaxis"]["type"] = "log"
    if not values:
        layout["empty"] = "no finite value"
    return {"data": traces, "layout": layout, "note": note}


def _metric(name: str) -> Callable[[EvaluationEvent], float | None]:
    return lambda event: event.test_metrics.get(name)


def _training_figure(curves: Sequence[Curves]) -> Figure:
    frames = {}
    for number, axis in enumerate(AXES):
        traces: list[dict[str, Any]] = []
        for index, group in enumerate(curves):
            if not any(run.evaluations for run in group.runs):  # cut off before the first: batches are all there is
                batches = [(_step_axis(run, axis), [event.loss for event in run.steps]) for run in group.runs]
                traces += curve_traces(summarized(batches), index, group.name, hovertemplate=_hover("loss", axis))
                continue
            if len(group.runs) == 1:
                traces.append(_batches(group, index, axis))
            lines = [_evaluation_line(run, axis, lambda event: event.train_loss) for run in group.runs]
            traces += curve_traces(summarized(lines), index, group.name, hovertemplate=_hover("training loss", axis))
        frames[str(number)] = frame_of(traces, {"title": _AXIS_TITLES[axis]}, {"title": "loss"}, logarithmic=True)
    return Figure("training-loss", "Training loss", frames, ("axis",))


def _batches(group: Curves, index: int, axis: str) -> dict[str, Any]:
    (run,) = group.runs
    curve = summarized([(_step_axis(run, axis), [event.loss for event in run.steps])])
    name = plot_text(group.name)
    alone = sum(value is not None for value in curve.y) == 1
    return {
        "type": "scatter",
        "x": curve.x,
        "y": curve.y,
        "name": f"{name}, batches",
        "legendgroup": name,
        "showlegend": False,
        "mode": "markers" if alone else "lines",
        "line": {"color": series(index, 0.4), "width": 1},
        "marker": {"color": series(index, 0.4), "size": 6},
        "hovertemplate": _hover("loss of the batch", axis),
    }


def _evaluated(
    name: str,
    title: str,
    unit: str,
    curves: Sequence[Curves],
    value: Callable[[EvaluationEvent], float | None],
    loss: bool,
) -> Figure:
    frames = {}
    for number, axis in enumerate(AXES):
        traces: list[dict[str, Any]] = []
        for index, group in enumerate(curves):
            lines = [_evaluation_line(run, axis, value) for run in group.runs]
            traces += curve_traces(summarized(lines), index, group.name, hovertemplate=_hover(title.lower(), axis))
        y = {"title": plot_text(unit)}
        frames[str(number)] = frame_of(traces, {"title": _AXIS_TITLES[axis]}, y, logarithmic=loss)
    return Figure(name, title, frames, ("axis",))


def _hover(what: str, axis: str) -> str:
    at = {"step": "after %{x} steps", "epoch": "epoch %{x:.3~g}", "seconds": "%{x:.3~g} s"}[axis]
    return f"{plot_text(what)} %{{y:.4~g}}, {at}"


def _evaluation_line(
    run: RunRecord, axis: str, value: Callable[[EvaluationEvent], float | None]
) -> tuple[list[float | None], list[float | None]]:
    events = merged_evaluations(run)
    if axis == "seconds":
        return [event.step_seconds for event in events], [value(event) for event in events]
    if axis == "step":
        return [event.step for event in events], [value(event) for event in events]
    progress = _epoch_progress(run)
    return [progress.get(event.step) for event in events], [value(event) for event in events]


def _step_axis(run: RunRecord, axis: str) -> Sequence[float | None]:
    """Return the position of the batch of each step, which is before the step."""
    if axis == "seconds":
        return list(accumulate((event.seconds for event in run.steps[:-1]), initial=0.0))[: len(run.steps)]
    if axis == "step":
        return [event.step for event in run.steps]
    progress = _epoch_progress(run)
    return [progress.get(event.step) for event in run.steps]


def _epoch_progress(run: RunRecord) -> dict[int, float]:
    """Return the number of epochs by the number of steps; an unfinished epoch counts as long as the longest one."""
    counts = Counter(event.epoch for event in run.steps)
    longest = max(counts.values(), default=1)
    ended = {event.epoch for event in run.epochs}
    progress = {0: 0.0}
    made: Counter[int] = Counter()
    for event in run.steps:
        made[event.epoch] += 1
        length = counts[event.epoch] if event.epoch in ended else longest
        progress[event.step + 1] = event.epoch - 1 + made[event.epoch] / length
    return progress


def _notes(runs: Sequence[RunRecord]) -> list[str]:
    notes = []
    for name, run in zip(labels(runs), runs, strict=True):
        gaps = [event.step for event in run.steps if not math.isfinite(event.loss)]
        if gaps and len(gaps) == sum(event.step >= gaps[0] for event in run.steps):
            notes.append(f"{name}: the loss is not finite from step {gaps[0]} on.")
        elif gaps:
            notes.append(f"{name}: the loss is not finite in {len(gaps)} steps, first in step {gaps[0]}.")
        if not run.finished:
            notes.append(f"{name}: the run is not finished; it has made {len(run.steps)} steps.")
    return notes

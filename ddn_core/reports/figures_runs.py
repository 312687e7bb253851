"""Learning curves: training loss, test loss and metrics, over steps, epochs or seconds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

from ddn_core.reports.curves import Curve, Line, plot_text, summarized
from ddn_core.reports.palette import line_style, marker_style, series
from ddn_core.reports.parts import Figure, Frame, Key, Look, Section, Switch
from ddn_core.runs import EvaluationEvent, RunRecord

AXES = ("step", "epoch", "seconds")
DIVERGED = "diverged"
"""Value of `meta` in the traces of runs that diverged, which do not decide on the first range of an axis."""
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

    @property
    def diverged(self) -> list[RunRecord]:
        """The runs that diverged."""
        return [run for run in self.runs if run.diverged_at is not None]

    @property
    def apart(self) -> list[RunRecord]:
        """The runs that have lines of their own: seeds that diverged."""
        return self.diverged if len(self.runs) > 1 else []

    @property
    def together(self) -> list[RunRecord]:
        """The runs that the main line summarizes."""
        return [run for run in self.runs if run not in self.apart]

    @property
    def mark(self) -> str:
        """Remark on the runs that diverged; an empty text if there are none."""
        if len(self.runs) > 1 and self.diverged:
            return f"{len(self.diverged)} of {len(self.runs)} diverged"
        return "".join(f"diverged at step {run.diverged_at}" for run in self.diverged)


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
    if any(curve.diverged for curve in curves):
        text += (
            " Runs that diverged have faint lines of their own, outside of median and band; axes first show the other "
            "runs, and all of them after a double click."
        )
    switch = Switch("axis", "Horizontal axis", [axis.capitalize() for axis in AXES])
    look: Look = "line" if max(len(run.evaluations) for run in runs) <= DASHED else "solid"
    figures = [solid(figure) for figure in figures] if look == "solid" else figures
    marks = {group.name: group.mark for group in curves if group.diverged}
    keys = keys_of([group.name for group in curves], look=look, marks=marks)
    return Section("learning", "Learning curves", text, figures, [switch], notes=_notes(runs), keys=keys)


def keys_of(
    names: Sequence[str],
    chosen: Collection[int] | None = None,
    look: Look = "line",
    marks: Mapping[str, str] | None = None,
) -> list[Key]:
    """Return the legend of a section about runs or candidates, which is empty for a single one.

    Args:
        names: The names of all series.
        chosen: Numbers of those that the section shows; all by default.
        look: Style of the entries.
        marks: Remarks that follow a name in its entry, such as that the run diverged.
    """
    marked = {name: f"{name} ({mark})" for name, mark in (marks or {}).items()}
    keys = [
        Key(marked.get(name, name), plot_text(name), index, look)
        for index, name in enumerate(names)
        if chosen is None or index in chosen
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


def divergence_mark(run: RunRecord) -> dict[str, Any]:
    """Return the entry that marks a trace of a run that diverged; none for another run."""
    return {} if run.diverged_at is None else {"meta": DIVERGED}


def finite_values(traces: Sequence[Mapping[str, Any]], axis: str = "y") -> list[float]:
    """Return all finite values along an axis."""
    return [value for trace in traces for value in trace[axis] if value is not None]


def frame_of(
    traces: list[dict[str, Any]], x: Mapping[str, Any], y: Mapping[str, Any], logarithmic: bool = False, note: str = ""
) -> Frame:
    """Return a state of a figure.

    A logarithmic vertical axis is used only if all values are positive. The axis first shows the traces of runs that
    did not diverge.
    """
    values = finite_values(traces)
    layout: dict[str, Any] = {"xaxis": dict(x), "yaxis": dict(y)}
    is_log = bool(logarithmic and values and min(values) > 0)
    if is_log:
        layout["yaxis"]["type"] = "log"
    steady = finite_values([trace for trace in traces if trace.get("meta") != DIVERGED])
    if steady and (max(values) > max(steady) or min(values) < min(steady)):
        layout["yaxis"]["range"] = range_of(steady, is_log)
    if not values:
        layout["empty"] = "no finite value"
    return {"data": traces, "layout": layout, "note": note}


def range_of(values: Sequence[float], is_log: bool) -> list[float]:
    """Return the ends of an axis that shows all values, with some room; Plotly has exponents on a logarithmic axis."""
    low, high = (math.log10(end) if is_log else end for end in (min(values), max(values)))
    room = 0.05 * (high - low or 1)
    return [low - room, high + room]


def _metric(name: str) -> Callable[[EvaluationEvent], float | None]:
    return lambda event: event.test_metrics.get(name)


def _training_figure(curves: Sequence[Curves]) -> Figure:
    frames = {}
    for number, axis in enumerate(AXES):
        traces: list[dict[str, Any]] = []
        for index, group in enumerate(curves):
            traces += [_batches(run, group.name, index, axis) for run in group.apart]
            runs = group.together
            if not any(run.evaluations for run in runs):  # cut off before the first: batches are all there is
                batches = [(_step_axis(run, axis), [event.loss for event in run.steps]) for run in runs]
                traces += _main(batches, group, index, _hover("loss", axis))
                continue
            if len(group.runs) == 1:
                traces.append(_batches(runs[0], group.name, index, axis))
            lines = [_evaluation_line(run, axis, lambda event: event.train_loss) for run in runs]
            traces += _main(lines, group, index, _hover("training loss", axis))
        frames[str(number)] = frame_of(traces, {"title": _AXIS_TITLES[axis]}, {"title": "loss"}, logarithmic=True)
    return Figure("training-loss", "Training loss", frames, ("axis",))


def _batches(run: RunRecord, name: str, index: int, axis: str) -> dict[str, Any]:
    """Return the faint line of the losses of a run's batches."""
    curve = summarized([(_step_axis(run, axis), [event.loss for event in run.steps])])
    name = plot_text(name)
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
        **divergence_mark(run),
    }


def _main(lines: Sequence[Line], group: Curves, index: int, hover: str) -> list[dict[str, Any]]:
    """Return the traces of the line that summarizes the runs of one name, and of its band; none without a run."""
    mark = divergence_mark(group.runs[0]) if len(group.runs) == 1 else {}
    traces = curve_traces(summarized(lines), index, group.name, hovertemplate=hover) if lines else []
    return [trace | mark for trace in traces]


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
            hover = _hover(title.lower(), axis)
            for run in group.apart:
                (line,) = curve_traces(summarized([_evaluation_line(run, axis, value)]), index, group.name)
                faint = {"line": {"color": series(index, 0.4), "width": 1}, "showlegend": False, "hovertemplate": hover}
                traces.append({**line, **faint, **divergence_mark(run)})
            traces += _main([_evaluation_line(run, axis, value) for run in group.together], group, index, hover)
        y = {"title": plot_text(unit)}
        frames[str(number)] = frame_of(traces, {"title": _AXIS_TITLES[axis]}, y, logarithmic=loss)
    return Figure(name, title, frames, ("axis",))


def _hover(what: str, axis: str) -> str:
    at = {"step": "after %{x} steps", "epoch": "epoch %{x:.3~g}", "seconds": "%{x:.3~g} s"}[axis]
    return f"{plot_text(what)} %{{y:.4~g}}, {at}"


def _evaluation_line(run: RunRecord, axis: str, value: Callable[[EvaluationEvent], float | None]) -> Line:
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
        if run.end is not None:
            notes.append(f"{name}: {run.end}.")
        elif not run.finished:
            notes.append(f"{name}: the run is not finished; it has made {len(run.steps)} steps.")
    return notes

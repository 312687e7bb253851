"""Figures of the training steps: predicted against actual decrease, damping range, step norm."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from ddn_core.reports.curves import all_rounded, plot_text, rounded, spread_evenly, summarized
from ddn_core.reports.figures_runs import (
    DASHED,
    curve_traces,
    divergence_mark,
    frame_of,
    keys_of,
    labels,
    range_of,
    solid,
)
from ddn_core.reports.palette import marker_style, series
from ddn_core.reports.parts import Figure, Look, Section, Switch
from ddn_core.runs import RunRecord, StepEvent

_MOST_MARKS = 1000  # steps of a run in the scatter plot
_STEP_AXIS = {"title": "step"}
_LEAST_PART = 0.1  # share of steps with two decreases from which on logarithmic axes are the initial choice


def decrease_section(runs: Sequence[RunRecord]) -> Section | None:
    """Return predicted against actual decrease, or the reason why the actual decrease is unknown."""
    if not any(event.predicted_decrease is not None for run in runs for event in run.steps):
        return None
    known = [[event for event in run.steps if _known(event)] for run in runs]
    text = (
        "How far the quadratic model can be trusted: the decrease of the loss of the batch that it predicts, and the "
        "actual decrease, both in units of the loss. On the dotted lines both agree; above them the loss fell further "
        "than predicted."
    )
    name, title = "decrease", "Predicted and actual decrease"
    if not any(known):
        note = (
            "The loss after the step is not known for any step. It is evaluated in recorded steps (ddn train "
            "--record), and if a strategy or a step rule requires it."
        )
        return Section(name, title, text, notes=[note])
    part = [f"{label}: {len(events)} of {len(run.steps)} steps" for label, run, events in _each(runs, known) if events]
    notes = ["The loss after the step is known for " + "; ".join(part) + "."]
    positive = [[event for event in events if _on_logarithmic(event)] for events in known]
    fewer = sum(map(len, known)) - sum(map(len, positive))
    logarithmic = sum(map(len, positive)) > _LEAST_PART * sum(map(len, known))
    frames = {"0": _scatter(runs, positive, logarithmic=True), "1": _scatter(runs, known, logarithmic=False)}
    if fewer and logarithmic:
        notes.append(f"Logarithmic axes leave out {fewer} steps in which one of the two is not a decrease.")
    switch = Switch("scale", "Scale", ["Logarithmic", "Linear"], chosen=0 if logarithmic else 1)
    figures = [
        Figure("decrease-scatter", "Actual against predicted decrease", frames, ("scale",)),
        Figure("decrease-ratio", "Actual over predicted decrease", {"": _ratio(runs, known)}),
    ]
    known_runs = {index for index, events in enumerate(known) if events}
    return Section(name, title, text, figures, [switch], notes=notes, keys=keys_of(labels(runs), known_runs, "mark"))


def damping_section(runs: Sequence[RunRecord]) -> Section | None:
    """Return ranges of dampings, step norms and numbers of directions over steps."""
    own = [run for run in runs if any(event.step_norm is not None for event in run.steps)]
    if not own:
        return None
    named = [(label, run) for label, run in zip(labels(runs), runs, strict=True) if run in own]
    text = (
        "Dampings δ (loss/param²) over all groups, from the smallest finite one to the largest; the Euclidean norm of "
        "the step (in units of the parameters); and the number of directions that were kept."
    )
    figures = [
        _range_figure(named, [labels(runs).index(label) for label, _ in named]),
        _line_figure("step-norm", "Step norm", "norm, param", named, runs, lambda event: event.step_norm, True),
        _line_figure("directions", "Directions kept", "number", named, runs, lambda event: event.directions, False),
    ]
    look: Look = "line" if max(len(run.steps) for run in own) <= DASHED else "solid"
    figures = [solid(figure) for figure in figures] if look == "solid" else figures
    keys = keys_of(labels(runs), {index for index, run in enumerate(runs) if run in own}, look)
    return Section("steps", "Damping and step norm", text, figures, keys=keys)


def _known(event: StepEvent) -> bool:
    if event.predicted_decrease is None or event.loss_after is None:
        return False
    return all(map(math.isfinite, (event.predicted_decrease, event.loss_after, event.loss)))


def _decreases(event: StepEvent) -> tuple[float, float]:
    """Return the predicted and the actual decrease of a step for which both are known."""
    assert event.predicted_decrease is not None
    assert event.loss_after is not None
    return event.predicted_decrease, event.loss - event.loss_after


def _on_logarithmic(event: StepEvent) -> bool:
    return min(_decreases(event)) > 0


def _each(runs: Sequence[RunRecord], known: Sequence[list[StepEvent]]) -> list[tuple[str, RunRecord, list[StepEvent]]]:
    return list(zip(labels(runs), runs, known, strict=True))


def _scatter(runs: Sequence[RunRecord], known: Sequence[list[StepEvent]], logarithmic: bool) -> dict[str, Any]:
    values = [value for events in known for event in events for value in _decreases(event)]
    ends = [rounded(min(values)), rounded(max(values))] if values else []
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "x": ends,
            "y": ends,
            "mode": "lines",
            "name": "equal",
            "showlegend": False,
            "line": {"color": "$muted", "width": 1.5, "dash": "dot"},
            "hoverinfo": "skip",
        }
    ]
    alone = sum(bool(events) for events in known) == 1
    for index, (label, _, every) in enumerate(_each(runs, known)):
        events = [every[place] for place in spread_evenly(len(every), _MOST_MARKS)]
        if not events:
            continue
        steps = [event.step for event in events]
        marker = marker_style(index, 7, 0.75)
        if alone:
            bar = {"title": {"text": "step", "side": "top"}, "thickness": 10, "outlinewidth": 0, "len": 0.8}
            marker |= {"color": steps, "colorscale": "$order", "showscale": len(steps) > 1, "colorbar": bar}
        traces.append(
            {
                "type": "scatter",
                "x": all_rounded(_decreases(event)[0] for event in events),
                "y": all_rounded(_decreases(event)[1] for event in events),
                "customdata": steps,
                "mode": "markers",
                "name": plot_text(label),
                "legendgroup": plot_text(label),
                "marker": marker,
                "hovertemplate": "step %{customdata}: predicted %{x:.4~g}, actual %{y:.4~g}",
            }
        )
    kind = {"type": "log"} if logarithmic else {}
    layout: dict[str, Any] = {
        "xaxis": {"title": "predicted decrease, loss", **kind},
        "yaxis": {"title": "actual decrease, loss", **kind},
    }
    if any(run.diverged_at is not None for run, events in zip(runs, known, strict=True) if events):
        steady = [event for run, events in zip(runs, known, strict=True) if run.diverged_at is None for event in events]
        for axis, decreases in zip(("xaxis", "yaxis"), zip(*map(_decreases, steady), strict=True), strict=False):
            layout[axis]["range"] = range_of(decreases, logarithmic)
    if not values:
        layout["empty"] = "no step with two decreases"
    return {"data": traces, "layout": layout}


def _ratio(runs: Sequence[RunRecord], known: Sequence[list[StepEvent]]) -> dict[str, Any]:
    traces: list[dict[str, Any]] = []
    for index, (label, _, events) in enumerate(_each(runs, known)):
        falling = [event for event in events if _decreases(event)[0] > 0]
        ratios = [actual / predicted for predicted, actual in map(_decreases, falling)]
        if falling:
            curve = summarized([([event.step for event in falling], ratios)])
            traces += curve_traces(curve, index, label, hovertemplate="actual/predicted %{y:.3~g}, step %{x}")
    # Predictions near zero make arbitrarily large ratios, so the axis first shows the middle nine tenths.
    layout: dict[str, Any] = {
        "xaxis": dict(_STEP_AXIS),
        "yaxis": {"title": "actual / predicted"},
        "marks": [{"axis": "y", "at": 1}],
    }
    values = sorted(value for trace in traces for value in trace["y"] if value is not None)
    if len(values) >= 20:
        low, high = values[len(values) // 20], values[-1 - len(values) // 20]
        room = 0.15 * (max(high, 1) - min(low, 0))
        layout["yaxis"]["range"] = [min(low, 0) - room, max(high, 1) + room]
        outside = sum(not min(low, 0) - room <= value <= max(high, 1) + room for value in values)
        note = f"{outside} steps lie outside; zoom out by a double click." if outside else ""
        return {"data": traces, "layout": layout, "note": note}
    return {"data": traces, "layout": layout}


def _range_figure(named: Sequence[tuple[str, RunRecord]], places: Sequence[int]) -> Figure:
    traces: list[dict[str, Any]] = []
    for index, (label, run) in zip(places, named, strict=True):
        steps: list[float | None] = [event.step for event in run.steps]
        low = summarized([(steps, [event.damping_min for event in run.steps])])
        high = summarized([(steps, [event.damping_max for event in run.steps])])
        name = plot_text(label)
        hover = {"hovertemplate": "smallest δ %{y:.3~g}, step %{x}"}
        lower = curve_traces(low, index, label, **hover, showlegend=False)[-1]
        upper = curve_traces(high, index, label, hovertemplate="largest δ %{y:.3~g}, step %{x}")[-1]
        for trace in (lower, upper):
            trace |= {"name": name, "legendgroup": name, "mode": "lines" if len(steps) > 1 else "markers"}
            trace |= divergence_mark(run)
            trace["line"] = {**trace["line"], "width": 1.5}
        if low.x == high.x and None not in (*low.y, *high.y):
            upper |= {"fill": "tonexty", "fillcolor": series(index, 0.18)}
        traces += [lower, upper]
    y = {"title": "δ, loss/param²"}
    return Figure("damping", "Range of the dampings", {"": frame_of(traces, _STEP_AXIS, y, logarithmic=True)})


def _line_figure(
    name: str,
    title: str,
    unit: str,
    named: Sequence[tuple[str, RunRecord]],
    runs: Sequence[RunRecord],
    value: Callable[[StepEvent], float | None],
    logarithmic: bool,
) -> Figure:
    traces: list[dict[str, Any]] = []
    zeros: list[str] = []
    every = labels(runs)
    for label, run in named:
        values = [value(event) for event in run.steps]
        if logarithmic:
            values = [None if number == 0 else number for number in values]
            zeros += [label] * (sum(map(_is_zero, map(value, run.steps))))
        curve = summarized([([event.step for event in run.steps], values)])
        hover = f"{title.lower()} %{{y:.4~g}}, step %{{x}}"
        traces += curve_traces(curve, every.index(label), label, hovertemplate=hover, **divergence_mark(run))
    note = "; ".join(f"{label}: zero in {zeros.count(label)} steps" for label in dict.fromkeys(zeros))
    return Figure(name, title, {"": frame_of(traces, _STEP_AXIS, {"title": unit}, logarithmic, note)})


def _is_zero(value: float | None) -> bool:
    return value == 0

"""Predicted and expected decrease and step norm of candidates on recorded curvature."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from ddn_core.reports.curves import all_rounded, plot_text, rounded
from ddn_core.reports.figures_runs import keys_of
from ddn_core.reports.palette import SYMBOLS, line_style, series
from ddn_core.reports.parts import Figure, Frame, Section, Switch
from ddn_core.traces import Replay, Replayed

_DIGITS = 4


def candidate_decrease_section(
    replay: Replay, every: Sequence[int], steps: Sequence[int], groups: Sequence[int]
) -> Section:
    """Return decrease and step norm of the candidates, by step and over steps, for all groups together and for each."""
    choice = group_switch("summed", groups, together=True)
    sets = [[group] for group in groups] if len(groups) == 1 else [list(groups), *([group] for group in groups)]
    sums = [_sums(replay, chosen) for chosen in sets]
    bars = {
        f"{n}|{p}": _bars(replay.names, found, step) for n, found in enumerate(sums) for p, step in enumerate(steps)
    }

    def over_steps(
        title: str, value: Callable[[_Sum], float | None], spread: bool, logarithmic: bool
    ) -> dict[str, Frame]:
        return {
            str(number): _over_steps(replay.names, found, every, title, value, spread, logarithmic)
            for number, found in enumerate(sums)
        }

    expected = over_steps("expected decrease, loss", lambda one: one.expected, True, False)
    norms = over_steps("step norm, param", lambda one: one.norm, False, True)
    text = (
        "Predicted is the decrease that the quadratic model gives for its own step, and is too large where gradients "
        "are noisy. For the expected decrease, one half of the samples makes the step and the other half judges it; "
        "the bars are the standard deviation over random halves. Both are in units of the loss."
    )
    if len(groups) > 1:
        text += " For all groups together, decreases are summed as if the groups did not interact."
    figures = [
        Figure("replay-bars", "Decrease, predicted and expected", bars, ("summed", "replay-step")),
        Figure("replay-expected", "Expected decrease over steps", expected, ("summed",)),
        Figure("replay-norm", "Step norm over steps", norms, ("summed",)),
    ]
    return Section(
        "replay-decrease",
        "Decrease of the loss by the candidates",
        text,
        figures,
        [choice, step_switch(steps)],
        keys=keys_of(replay.names),
    )


def group_switch(name: str, groups: Sequence[int], together: bool) -> Switch:
    """Return the switch for a group, or for all groups together."""
    options = [f"Group {group}" for group in groups]
    return Switch(
        name, "Parameters", ["All groups", *options] if together and len(groups) > 1 else options, kind="list"
    )


def step_switch(steps: Sequence[int]) -> Switch:
    """Return the switch for a recorded step."""
    return Switch("replay-step", "Recorded step", [str(step) for step in steps], kind="slider")


class _Sum:
    """Decrease and step norm of a candidate, summed over groups of a step."""

    def __init__(self, results: Sequence[Replayed]) -> None:
        self.predicted = math.fsum(result.choice.predicted_decrease for result in results)
        self.expected = math.fsum(result.expected_decrease for result in results)
        self.spread = math.hypot(*(result.expected_spread for result in results))
        self.norm = math.hypot(*(result.choice.step_norm for result in results))


def _sums(replay: Replay, groups: Sequence[int]) -> dict[tuple[str, int], _Sum]:
    found: dict[tuple[str, int], list[Replayed]] = {}
    for result in replay.results:
        if result.group in groups:
            found.setdefault((result.name, result.step), []).append(result)
    return {key: _Sum(results) for key, results in found.items()}


def _bars(names: Sequence[str], sums: dict[tuple[str, int], _Sum], step: int) -> Frame:
    rows = [plot_text(name) for name in names]
    here = [sums.get((name, step)) for name in names]
    predicted = all_rounded((None if one is None else one.predicted for one in here), _DIGITS)
    expected = all_rounded((None if one is None else one.expected for one in here), _DIGITS)
    spread = [0.0 if one is None else rounded(one.spread, _DIGITS) or 0.0 for one in here]
    bar = {"type": "bar", "x": rows}
    dense = {"size": 6, "solidity": 0.2}
    traces = [
        {**bar, "y": predicted, "name": "predicted", "marker": {"color": "$muted"}, "hovertemplate": "%{y:.3~g}"},
        {
            **bar,
            "y": expected,
            "name": "expected on held-out samples",
            "marker": {
                "color": "$accent",
                "pattern": {"shape": "/", "fillmode": "overlay", "fgcolor": "$ground", **dense},
            },
            "error_y": {"type": "data", "array": spread, "color": "$text", "thickness": 1.5, "width": 4},
            "hovertemplate": "%{y:.3~g} ± %{error_y.array:.2~g}",
        },
    ]
    layout: dict[str, Any] = {
        "xaxis": {"type": "category"},
        "yaxis": {"title": "decrease, loss"},
        "barmode": "group",
        "own_legend": True,
    }
    if all(value is None for value in (*predicted, *expected)):
        layout["empty"] = "no finite value"
    return {"data": traces, "layout": layout}


def _over_steps(
    names: Sequence[str],
    sums: dict[tuple[str, int], _Sum],
    steps: Sequence[int],
    title: str,
    value: Callable[[_Sum], float | None],
    spread: bool,
    logarithmic: bool,
) -> Frame:
    traces: list[dict[str, Any]] = []
    for index, name in enumerate(names):
        here = [sums.get((name, step)) for step in steps]
        trace: dict[str, Any] = {
            "type": "scatter",
            "mode": "lines+markers",
            "x": list(steps),
            "y": all_rounded((None if one is None else value(one) for one in here), _DIGITS),
            "name": plot_text(name),
            "legendgroup": plot_text(name),
            "line": line_style(index),
            "marker": {"color": series(index), "symbol": SYMBOLS[index % len(SYMBOLS)], "size": 7},
            "hovertemplate": "%{y:.3~g}, step %{x}",
        }
        if spread:
            array = [0.0 if one is None else rounded(one.spread, _DIGITS) or 0.0 for one in here]
            trace["error_y"] = {"type": "data", "array": array, "color": series(index, 0.6), "thickness": 1, "width": 3}
        traces.append(trace)
    values = [number for trace in traces for number in trace["y"] if number is not None]
    axis = {"type": "log"} if logarithmic and values and min(values) > 0 else {}
    layout: dict[str, Any] = {"xaxis": {"title": "recorded step"}, "yaxis": {"title": title, **axis}}
    if not values:
        layout["empty"] = "not known: too few samples" if spread else "no finite value"
    return {"data": traces, "layout": layout}

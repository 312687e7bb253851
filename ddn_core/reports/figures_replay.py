"""Candidates on recorded curvature: dampings by direction, kept directions, and a table of figures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from ddn_core.reports.curves import all_rounded, figure_text, plot_text, ranks_shown, rounded, spread_evenly
from ddn_core.reports.figures_decrease import candidate_decrease_section, group_switch, step_switch
from ddn_core.reports.figures_runs import keys_of
from ddn_core.reports.palette import marker_style, series
from ddn_core.reports.parts import Figure, Frame, Section, Table
from ddn_core.traces import Replay, Replayed

MOST_STEPS = 12
_DIGITS = 4
_ROOM = 4  # factor by which infinite and zero dampings are drawn beyond the others


def replay_sections(replay: Replay) -> list[Section]:
    """Return the sections of a replay, or none if it has no results."""
    if not replay.results:
        return []
    every = sorted({result.step for result in replay.results})
    steps = [every[place] for place in spread_evenly(len(every), MOST_STEPS)]
    groups = sorted({result.group for result in replay.results})
    notes = [] if len(steps) == len(every) else [f"{len(steps)} of {len(every)} recorded steps are shown by step."]
    return [
        _damping_section(replay, steps, groups, notes),
        candidate_decrease_section(replay, every, steps, groups),
        _table(replay),
    ]


def _damping_section(replay: Replay, steps: Sequence[int], groups: Sequence[int], notes: Sequence[str]) -> Section:
    switches = [group_switch("damped", groups, together=False), step_switch(steps)]
    dampings: dict[str, Frame] = {}
    kept: dict[str, Frame] = {}
    for number, group in enumerate(groups):
        for place, step in enumerate(steps):
            results = replay.at(step, group)
            dampings[f"{number}|{place}"] = _dampings(replay.names, results)
            kept[f"{number}|{place}"] = _kept(replay.names, results)
    text = (
        "The choice of each candidate for the recorded directions: the damping δ of each direction that it keeps, by "
        "eigenvalue λ (both in loss/param²), and the ranks of these directions. On the dotted line damping and "
        "eigenvalue are equal, and the step along a direction is half of a Newton step."
    )
    figures = [
        Figure("replay-damping", "Damping by eigenvalue", dampings, ("damped", "replay-step")),
        Figure("replay-kept", "Directions kept, by rank", kept, ("damped", "replay-step")),
    ]
    return Section(
        "replay-directions",
        "Candidates on recorded directions",
        text,
        figures,
        switches,
        notes=notes,
        keys=keys_of(replay.names, look="mark"),
    )


def _dampings(names: Sequence[str], results: Sequence[Replayed]) -> Frame:
    found = [(name, *_by_eigenvalue(result)) for name, result in zip(names, results, strict=True)]
    evals = [value for _, values, _ in found for value in values if value > 0]
    inside = [delta for _, _, deltas in found for delta in deltas if 0 < delta < math.inf] or [1.0]
    top, bottom = max(inside) * _ROOM, min(inside) / _ROOM
    traces: list[dict[str, Any]] = []
    if evals:
        ends = [rounded(min(evals), _DIGITS), rounded(max(evals), _DIGITS)]
        line = {"color": "$muted", "width": 1.5, "dash": "dot"}
        equal = {
            "type": "scatter",
            "mode": "lines",
            "x": ends,
            "y": ends,
            "name": "δ = λ",
            "line": line,
            "showlegend": False,
        }
        traces.append({**equal, "hoverinfo": "skip"})
    notes = []
    for index, (name, values, deltas) in enumerate(found):
        common = {"type": "scatter", "mode": "markers", "name": plot_text(name), "legendgroup": plot_text(name)}
        style = marker_style(index, 5, 0.85)
        pairs = [(value, delta) for value, delta in zip(values, deltas, strict=True) if 0 < delta < math.inf]
        traces.append(_points(pairs, {**common, "marker": style}, "δ = %{y:.3~g} at λ = %{x:.3~g}"))
        for edge, is_there, symbol, said in (
            (top, math.inf, "triangle-up", "δ = ∞: not moved along"),
            (bottom, 0.0, "triangle-down", "δ = 0: not damped"),
        ):
            pairs = [(value, edge) for value, delta in zip(values, deltas, strict=True) if delta == is_there]
            if pairs:
                marker = {**style, "symbol": symbol, "size": 8}
                hidden = {**common, "marker": marker, "showlegend": False}
                traces.append(_points(pairs, hidden, said + " at λ = %{x:.3~g}"))
                where = "at the top" if edge == top else "at the bottom"
                notes.append(f"{name}: {len(pairs)} directions with {said.partition(':')[0]}, {where}.")
    layout = {
        "xaxis": {"title": "λ<sub>k</sub>, loss/param²", "type": "log"},
        "yaxis": {"title": "δ<sub>k</sub>, loss/param²", "type": "log"},
    }
    return {"data": traces, "layout": layout, "note": " ".join(notes)}


def _points(pairs: Sequence[tuple[float, float]], trace: dict[str, Any], hover: str) -> dict[str, Any]:
    x, y = all_rounded((value for value, _ in pairs), _DIGITS), all_rounded((delta for _, delta in pairs), _DIGITS)
    return {**trace, "x": x, "y": y, "hovertemplate": hover}


def _by_eigenvalue(result: Replayed) -> tuple[list[float], list[float]]:
    """Return eigenvalues and dampings of the kept directions, the largest eigenvalue first, thinned."""
    evals = result.choice.every.evals[result.choice.kept].double()
    order = evals.argsort(descending=True)
    drawn = order[torch.tensor(ranks_shown(len(order)), dtype=torch.long)]
    return evals[drawn].tolist(), result.choice.deltas.double()[drawn].tolist()


def _kept(names: Sequence[str], results: Sequence[Replayed]) -> Frame:
    """Return a row for each candidate, the first at the top, with lines over the ranks that it keeps."""
    traces: list[dict[str, Any]] = []
    for index, (name, result) in enumerate(zip(names, results, strict=True)):
        ranks = (len(result.choice.every) - result.choice.kept).sort().values.tolist()
        x: list[int | None] = []
        for first, last in _runs(ranks):
            x += [first, last, None]
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "x": x,
                "y": [None if rank is None else plot_text(name) for rank in x],
                "name": plot_text(name),
                "legendgroup": plot_text(name),
                "line": {"color": series(index), "width": 9},
                "marker": {"color": series(index), "size": 9, "symbol": "square"},
                "showlegend": False,
                "hovertemplate": f"keeps {len(ranks)} of {len(result.choice.every)}, also rank %{{x}}",
            }
        )
    rows = [plot_text(name) for name in names]
    y = {"type": "category", "categoryorder": "array", "categoryarray": rows[::-1], "range": [-0.6, len(rows) - 0.4]}
    total = max((len(result.choice.every) for result in results), default=1)
    note = f"There are {total} directions."
    return {"data": traces, "layout": {"xaxis": {"title": "rank k", "range": [0, total + 1]}, "yaxis": y}, "note": note}


def _runs(ranks: Iterable[int]) -> list[tuple[int, int]]:
    """Return consecutive ranks as pairs of the first and the last."""
    found: list[tuple[int, int]] = []
    for rank in ranks:
        if found and rank == found[-1][1] + 1:
            found[-1] = found[-1][0], rank
        else:
            found.append((rank, rank))
    return found


def _table(replay: Replay) -> Section:
    rows = replay.rows()
    columns = list(rows[0])
    cells = [[value if isinstance(value, str) else _cell(value) for value in row.values()] for row in rows]
    table = Table(
        "Figures by candidate, step and group", [name.replace("_", " ") for name in columns], cells, tall=len(rows) > 12
    )
    text = (
        "Ranges of the dampings (loss/param²) are over the finite ones. Step norms are in units of the parameters, "
        "decreases in units of the loss. Milliseconds are those of criterion and damping."
    )
    return Section("replay-figures", "Figures of the replay", text, tables=[table])


def _cell(value: int | float) -> str:
    return str(value) if isinstance(value, int) else "–" if math.isnan(value) else figure_text(float(f"{value:.3g}"))

"""Curvature over training: spectrum over time, directions of a step, and the share of each direction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ddn_core.errors import ArgumentError
from ddn_core.reports.curvature import Ranked, Recorded
from ddn_core.reports.curves import all_rounded, ranks_shown, rounded, spread_evenly
from ddn_core.reports.figures_runs import labels
from ddn_core.reports.palette import SYMBOLS, in_order, line_style, series
from ddn_core.reports.parts import Figure, Frame, Section, Switch
from ddn_core.runs import RunRecord

_RANKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)  # ranks whose eigenvalues are drawn over the steps
_DRAWN_RANGE = 1e-9  # relative to the largest eigenvalue; smaller ones are mostly rounding
_MOST_SPECTRA = 12
_K = {"title": "rank k", "type": "log"}
_DIGITS = 4


def spectrum_section(runs: Sequence[RunRecord], recorded: Recorded) -> Section | None:
    """Return the recorded eigenvalues by step, or those at the first step and at the last of each epoch.

    If the checkpoint of a run is damaged, a note says so.
    """
    spectra, notes = _recorded_spectra(recorded), []
    own = {source.label.partition(", group")[0] for source in recorded.sources}
    for label, run in zip(labels(runs), runs, strict=True):
        if label not in own:
            try:
                spectra += _checkpoint_spectra(label, run)
            except ArgumentError as error:
                notes.append(f"{label}: {error}")
    spectra = [(label, by_step) for label, by_step in spectra if by_step]
    if not spectra:
        return Section("spectrum", "Spectrum over time", "There are no eigenvalues.", notes=notes) if notes else None
    text = (
        "Eigenvalues λ of the generalized Gauss-Newton matrix (loss/param²): all of them by rank, with one line for "
        "each step, and some of them over the steps."
    )
    switch = Switch("spectrum", "Run", [label for label, _ in spectra], kind="list")
    over_rank = {str(number): _by_rank(by_step) for number, (_, by_step) in enumerate(spectra)}
    over_step = {str(number): _by_step(by_step) for number, (_, by_step) in enumerate(spectra)}
    figures = [
        Figure("spectrum-rank", "Eigenvalues by rank", over_rank, ("spectrum",)),
        Figure("spectrum-step", "Eigenvalues over steps", over_step, ("spectrum",)),
    ][: 1 if all(len(by_step) == 1 for _, by_step in spectra) else 2]
    return Section("spectrum", "Spectrum over time", text, figures, [switch], notes=notes)


def direction_sections(recorded: Recorded) -> list[Section]:
    """Return the directions of recorded steps, and the share of each in the step."""
    sources = [source for source in recorded.sources if any(source.at(place) for place in range(len(source.steps)))]
    if not sources:
        remarks = Section("directions", "Directions at a recorded step", "There is no direction.", notes=recorded.notes)
        return [remarks] if recorded.notes else []
    steps = [[str(step.entry.step) for step in source.steps] for source in sources]
    switches = [
        Switch("source", "Run", [source.label for source in sources], kind="list"),
        Switch("step", "Step", steps, kind="slider", of="source"),
    ]
    makers = {"slopes": _slopes, "curvatures": _curvatures, "noise": _noise, "shares": _shares, "sums": _sums}
    frames: dict[str, dict[str, Frame]] = {name: {} for name in makers}
    for number, source in enumerate(sources):
        for place in range(len(source.steps)):
            group = source.at(place)
            ranked = None if group is None or not len(group.directions) else Ranked.of(group)
            for name, make in makers.items():
                empty: Frame = {"data": [], "layout": {"empty": "no directions in this step"}}
                frames[name][f"{number}|{place}"] = empty if ranked is None else make(ranked)

    def figure(name: str, title: str, about: str) -> Figure:
        return Figure(name, title, frames[name], ("source", "step"), about=about)

    directions = Section(
        "directions",
        "Directions at a recorded step",
        "Each mark is an eigenvector of the generalized Gauss-Newton matrix. The step along it is -γ̄/(λ̄ + δ): slope "
        "over curvature and damping. Signal-to-noise is the squared slope over the variance of its mean; pure noise "
        "has 1 on average, the dotted line. The criterion kept the filled marks and left out the hollow ones.",
        [
            figure("slopes", "Slope |γ̄|", "Absolute directional gradients by rank."),
            figure("curvatures", "Curvature λ̄ and damping δ", "Curvatures and dampings by rank."),
            figure("noise", "Signal-to-noise of the slope", "Signal-to-noise ratios by rank, with a line at 1."),
        ],
        switches,
        notes=recorded.notes,
    )
    carried = Section(
        "carried",
        "Which directions carried the step",
        "Shares of each direction in the squared norm of the step and in the decrease of the loss that the quadratic "
        "model predicts. All directions of the group have 100 %. The second figure sums the shares from the largest "
        "eigenvalue on.",
        [
            figure("shares", "Share of each direction", "Shares in squared norm and predicted decrease by rank."),
            figure("sums", "Shares summed up", "Cumulative shares in squared norm and predicted decrease by rank."),
        ],
        switches,
    )
    return [directions, carried]


Spectrum = dict[int, Tensor]


def _recorded_spectra(recorded: Recorded) -> list[tuple[str, Spectrum]]:
    found = []
    for source in recorded.sources:
        groups = [(step.entry.step, source.at(place)) for place, step in enumerate(source.steps)]
        by_step = {step: group.directions.all_evals for step, group in groups if group is not None}
        found.append((source.label, {step: evals for step, evals in by_step.items() if len(evals)}))
    return found


def _checkpoint_spectra(label: str, run: RunRecord) -> list[tuple[str, Spectrum]]:
    steps = sorted(run.spectra)
    steps = [steps[place] for place in spread_evenly(len(steps), _MOST_SPECTRA)]
    groups = max((len(run.spectra[step]) for step in steps), default=0)
    found = []
    for group in range(groups):
        by_step = {step: run.spectra[step][group] for step in steps if group < len(run.spectra[step])}
        name = f"{label}, group {group}" if groups > 1 else label
        found.append((name, {step: evals for step, evals in by_step.items() if len(evals)}))
    return found


def _by_rank(by_step: Spectrum) -> Frame:
    traces = []
    largest = max(float(evals.max()) for evals in by_step.values())
    for index, (step, evals) in enumerate(sorted(by_step.items())):
        values = evals.double().flip(0).tolist()
        places = [place for place in ranks_shown(len(values)) if values[place] > _DRAWN_RANGE * largest]
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers" if len(places) == 1 else "lines",
                "x": [place + 1 for place in places],
                "y": all_rounded((values[place] for place in places), _DIGITS),
                "name": f"step {step}",
                "line": {"color": in_order(index, len(by_step)), "width": 2},
                "marker": {"color": in_order(index, len(by_step))},
                "hovertemplate": "λ<sub>%{x}</sub> = %{y:.3~g}",
            }
        )
    return {"data": traces, "layout": {"xaxis": _K, "yaxis": {"title": "λ<sub>k</sub>, loss/param²", "type": "log"}}}


def _by_step(by_step: Spectrum) -> Frame:
    traces = []
    steps = sorted(by_step)
    longest = max(len(evals) for evals in by_step.values())
    ranks = [rank for rank in _RANKS if rank <= longest][:8]
    for index, rank in enumerate(ranks):
        values = [float(by_step[step].flip(0)[rank - 1]) if rank <= len(by_step[step]) else None for step in steps]
        color = in_order(len(ranks) - 1 - index, len(ranks))
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "x": steps,
                "y": [None if value is None or value <= 0 else rounded(value, _DIGITS) for value in values],
                "name": f"k = {rank}",
                "line": {"color": color, "width": 2},
                "marker": {"color": color, "size": 6, "symbol": SYMBOLS[index]},
                "hovertemplate": f"λ<sub>{rank}</sub> = %{{y:.3~g}}, step %{{x}}",
            }
        )
    return {
        "data": traces,
        "layout": {"xaxis": {"title": "step"}, "yaxis": {"title": "λ<sub>k</sub>, loss/param²", "type": "log"}},
    }


def _marks(values: Tensor, chosen: Tensor, name: str, index: int, hollow: bool = False, **more: Any) -> dict[str, Any]:
    """Return a mark for each chosen direction with a positive value, because the axes are logarithmic."""
    places = [place for place in ranks_shown(len(values)) if chosen[place] and values[place] > 0]
    symbol = SYMBOLS[index] + ("-open" if hollow else "")
    color = "$muted" if hollow else series(index)
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [place + 1 for place in places],
        "y": all_rounded(values[places].tolist(), _DIGITS),
        "name": name,
        "marker": {"color": color, "size": 5, "symbol": symbol, "opacity": 0.85, "line": {"width": int(hollow)}},
        "hovertemplate": "k = %{x}: %{y:.3~g}",
        **more,
    }


def _kept_and_left(values: Tensor, ranked: Ranked, kept: str = "kept", left: str = "left out") -> list[dict[str, Any]]:
    traces = [_marks(values, ~ranked.kept, left, 0, hollow=True)] if bool((~ranked.kept).any()) else []
    return [*traces, _marks(values, ranked.kept, kept, 0)]


def _slopes(ranked: Ranked) -> Frame:
    y = {"title": "|γ̄<sub>k</sub>|, loss/param", "type": "log"}
    return {"data": _kept_and_left(ranked.slopes, ranked), "layout": {"xaxis": _K, "yaxis": y}}


def _curvatures(ranked: Ranked) -> Frame:
    traces = _kept_and_left(ranked.curvatures, ranked, "λ̄, kept", "λ̄, left out")
    finite = ranked.kept & ranked.deltas.isfinite()
    traces.append(_marks(ranked.deltas, finite, "δ", 1))
    unmoved = int((ranked.kept & ranked.deltas.isinf()).sum())
    undamped = int((finite & (ranked.deltas <= 0)).sum())
    notes = [
        f"{unmoved} kept directions have δ = ∞: the step does not move along them." if unmoved else "",
        f"{undamped} kept directions have no damping (δ = 0)." if undamped else "",
    ]
    y = {"title": "λ̄<sub>k</sub> and δ<sub>k</sub>, loss/param²", "type": "log"}
    return {"data": traces, "layout": {"xaxis": _K, "yaxis": y}, "note": " ".join(filter(None, notes))}


def _noise(ranked: Ranked) -> Frame:
    layout: dict[str, Any] = {"xaxis": _K, "yaxis": {"title": "signal-to-noise, no unit", "type": "log"}}
    layout["marks"] = [{"axis": "y", "at": 1}]
    finite = ranked.noise.isfinite()
    if not bool(finite.any()):
        return {"data": [], "layout": {**layout, "empty": "not known: gradients of too few samples"}}
    above = int((finite & (ranked.noise > 1)).sum())
    note = f"{above} of {len(ranked.noise)} directions are above 1."
    return {"data": _kept_and_left(ranked.noise.where(finite, -1.0), ranked), "layout": layout, "note": note}


def _parts(ranked: Ranked) -> list[tuple[str, Tensor]]:
    """Return the shares in the squared norm and, if a decrease is predicted, in the predicted decrease."""
    total = float(ranked.decreases.sum())
    parts = [("squared norm", 100 * ranked.shares)]
    return [*parts, ("predicted decrease", 100 * ranked.decreases / total)] if total > 0 else parts


def _shares(ranked: Ranked) -> Frame:
    return _share_frame([(name, part) for name, part in _parts(ranked)], ranked, "share of direction k, %", "markers")


def _sums(ranked: Ranked) -> Frame:
    frame = _share_frame(
        [(name, part.cumsum(0)) for name, part in _parts(ranked)], ranked, "share of 1 to k, %", "lines"
    )
    if not float(ranked.shares.sum()):
        return frame
    halves = [f"half of the {name} in {_carrying_half(part)}" for name, part in _parts(ranked)]
    note = f"Of {int((ranked.shares > 0).sum())} directions moved along: {', '.join(halves)}."
    return {**frame, "note": note}


def _carrying_half(part: Tensor) -> int:
    """Return the number of directions, the largest shares first, whose shares sum to 50 %."""
    return int((part.sort(descending=True).values.cumsum(0) < 50).sum()) + 1


def _share_frame(parts: Sequence[tuple[str, Tensor]], ranked: Ranked, title: str, mode: str) -> Frame:
    traces = []
    for index, (name, part) in enumerate(parts):
        every = [place for place in ranks_shown(len(part)) if mode == "lines" or ranked.kept[place]]
        traces.append(
            {
                "type": "scatter",
                "mode": mode if len(every) > 1 else "markers",
                "x": [place + 1 for place in every],
                "y": all_rounded(part[every].tolist(), _DIGITS),
                "name": name,
                "line": line_style(index),
                "marker": {"color": series(index), "symbol": SYMBOLS[index], "size": 5, "opacity": 0.9},
                "hovertemplate": "k = %{x}: %{y:.3~g} %",
            }
        )
    layout: dict[str, Any] = {"xaxis": _K, "yaxis": {"title": title, "rangemode": "tozero", "free": True}}
    if not float(ranked.shares.sum()):
        layout["empty"] = "the step does not move"
    return {"data": traces, "layout": layout}

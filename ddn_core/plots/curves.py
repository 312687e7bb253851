"""Losses and metrics of runs; predicted against actual decrease."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

from ddn_core.plots.palette import COLORS, GRAY, current, markers, styles, tidy
from ddn_core.plots.subjects import Evaluation, Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

XLABELS = {"step": "step", "epoch": "epoch", "seconds": "seconds, with evaluations"}


def learning_curves(
    runs: Run | Sequence[Run],
    quantity: str = "test_loss",
    x: Literal["step", "epoch", "seconds"] = "step",
    ax: Axes | None = None,
) -> Axes:
    """Draw a loss or a metric over training. For runs of the same name, which are seeds, draw median and range.

    Seeds that diverged have thin lines of their own, and runs that diverged do not decide on the limits of the axis.

    Args:
        runs: A `RunRecord`, or several.
        quantity: `"train_loss"`, `"test_loss"`, or the name of a metric.
        x: Horizontal axis. The seconds of several seeds are the median at each evaluation.
        ax: Axes to draw on.
    """
    ax = current(ax)
    named: dict[str, list[Run]] = {}
    for run in _listed(runs):
        named.setdefault(run.name, []).append(run)
    shown: list[float] = []
    for (name, every), style in zip(named.items(), styles(), strict=False):
        apart = [run for run in every if run.diverged_at is not None]
        for run in apart:
            events = run.epochs if x == "epoch" else run.evaluations
            line = [getattr(event, x) for event in events], [value_of(event, quantity) for event in events]
            ax.plot(*line, color=style["color"], linewidth=0.8, linestyle=":", label=_divergence_label(run))
        seeds = [run for run in every if run.diverged_at is None]
        if not seeds:
            continue
        rows = list(zip(*(seed.epochs if x == "epoch" else seed.evaluations for seed in seeds), strict=False))
        places = [statistics.median(getattr(event, x) for event in row) for row in rows]
        values = [[value_of(event, quantity) for event in row] for row in rows]
        middles = [statistics.median(finite) if (finite := _finite(row)) else math.nan for row in values]
        shown += [value for row in values for value in _finite(row)]
        label = f"{name} ({len(seeds)} seeds)" if len(seeds) > 1 else name
        ax.plot(places, middles, label=label, **style)
        if len(seeds) > 1:
            lows = [min(_finite(row), default=math.nan) for row in values]
            highs = [max(_finite(row), default=math.nan) for row in values]
            ax.fill_between(places, lows, highs, color=style["color"], alpha=0.15, linewidth=0)
    if named:
        ax.legend(frameon=False)
    label, yscale = quantity.replace("_", " "), "log" if quantity.endswith("loss") else "linear"
    tidy(ax, xlabel=XLABELS[x], ylabel=label, yscale=yscale)
    if any(run.diverged_at is not None for run in _listed(runs)):
        _limit(ax, [value for value in shown if value > 0 or yscale == "linear"])
    return ax


def predicted_and_actual(runs: Run | Sequence[Run], ax: Axes | None = None) -> Axes:
    """Draw the actual decrease of the loss in a step against the decrease that the quadratic model predicted.

    The actual decrease is known in recorded steps, and if a strategy or a step rule requires it.

    Args:
        runs: A `RunRecord`, or several.
        ax: Axes to draw on.
    """
    ax = current(ax)
    ends: list[float] = []
    for run, marker, color in zip(_listed(runs), markers(), COLORS * 9, strict=False):
        known = [
            (step.predicted_decrease, step.loss - step.loss_after)
            for step in run.steps
            if step.predicted_decrease is not None and step.loss_after is not None
        ]
        ends += [value for pair in known for value in pair]
        ax.plot([one for one, _ in known], [other for _, other in known], marker, color=color, label=run.name, ms=4)
    if ends := _finite(ends):
        low, high = min(ends), max(ends)
        ax.plot([low, high], [low, high], color=GRAY, linewidth=1, label="as predicted", zorder=0)
        ax.legend(frameon=False)
    return tidy(ax, title="Decrease of the loss", xlabel="predicted, loss", ylabel="actual, loss")


def value_of(event: Evaluation, quantity: str) -> float:
    """Return a loss or a metric of an evaluation, or NaN if it has none of that name."""
    value = event.test_metrics.get(quantity, getattr(event, quantity, None))
    return math.nan if value is None else float(value)


def _divergence_label(run: Run) -> str:
    return f"{run.name} (diverged at step {run.diverged_at})"


def _limit(ax: Axes, values: Sequence[float]) -> None:
    """Set the limits of the vertical axis to values, with some room; none changes nothing."""
    if not values:
        return
    to_axis = ax.yaxis.get_transform()
    low, high = to_axis.transform([min(values), max(values)])
    room = 0.05 * (high - low or 1)
    ax.set_ylim(*to_axis.inverted().transform([low - room, high + room]))


def _listed(runs: Run | Sequence[Run]) -> Sequence[Run]:
    return list(runs) if isinstance(runs, Iterable) else [runs]


def _finite(values: Sequence[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]

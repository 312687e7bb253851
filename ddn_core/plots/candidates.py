"""Strategies on a trace, for comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddn_core.plots.palette import COLORS, current, markers, tidy
from ddn_core.plots.subjects import CandidateResults

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def candidate_dampings(replay: CandidateResults, step: int, group: int = 0, ax: Axes | None = None) -> Axes:
    """Draw the damping of each kept direction against its eigenvalue, for each candidate.

    Args:
        replay: A `Replay`.
        step: Number of the recorded step.
        group: Number of the group.
        ax: Axes to draw on.
    """
    ax = current(ax)
    for result, color, marker in zip(replay.at(step, group), COLORS * 9, markers(), strict=False):
        deltas = result.choice.deltas
        drawable = deltas.isfinite() & (deltas > 0)
        evals = result.choice.every.evals[result.choice.kept]
        ax.plot(
            evals[drawable].tolist(), deltas[drawable].tolist(), marker, color=color, ms=4, alpha=0.8, label=result.name
        )
    ax.legend(frameon=False)
    return tidy(
        ax,
        title=f"Dampings at step {step}, group {group}",
        xlabel="eigenvalue λ_k, loss/param²",
        ylabel="damping δ_k, loss/param²",
        xscale="log",
        yscale="log",
    )


def candidate_decreases(replay: CandidateResults, group: int = 0, ax: Axes | None = None) -> Axes:
    """Draw the predicted decrease of each candidate at each step, and the expected decrease on held-out halves.

    Args:
        replay: A `Replay`.
        group: Number of the group.
        ax: Axes to draw on.
    """
    ax = current(ax)
    steps = list(dict.fromkeys(one.step for one in replay.results))
    width = 0.8 / len(replay.names)
    for place, (name, color) in enumerate(zip(replay.names, COLORS * 9, strict=False)):
        found = [one for one in replay.results if one.name == name and one.group == group]
        places = [steps.index(one.step) + (place + 0.5) * width - 0.4 for one in found]
        predicted = [one.choice.predicted_decrease for one in found]
        ax.bar(places, predicted, 0.9 * width, color=color, alpha=0.35)
        expected = [one.expected_decrease for one in found]
        spread = [one.expected_spread for one in found]
        ax.errorbar(places, expected, yerr=spread, fmt="o", ms=4, color=color, label=name, capsize=2)
    ax.axhline(0, color="0.3", linewidth=0.8)
    ax.set_xticks(range(len(steps)), [str(step) for step in steps])
    ax.legend(frameon=False)
    title = "Decrease: bars predicted, points expected by held-out halves"
    return tidy(ax, title=title, xlabel="step", ylabel="decrease of the loss")

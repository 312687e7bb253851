"""Slope, curvature, noise and share of each direction."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ddn_core.api import Directions
from ddn_core.measures import DampedChoice, signal_to_noise
from ddn_core.plots.palette import COLORS, GRAY, current, tidy
from ddn_core.plots.subjects import HasChoice

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RANK = "k, largest eigenvalue first"


def derivatives(given: HasChoice | DampedChoice | Directions, ax: Axes | None = None) -> Axes:
    """Draw slope, curvature and damping of each direction: `|γ̄_k|`, `λ̄_k`, `δ_k`.

    Args:
        given: A recorded group, a choice of directions with dampings, or directions alone.
        ax: Axes to draw on.
    """
    ax = current(ax)
    directions, choice = _parts(given)
    ranks = _ranks(directions)
    ax.plot(ranks, directions.loss_gammas.abs().tolist(), ".", color=GRAY, label="|γ̄_k|, loss/param")
    ax.plot(ranks, directions.loss_lambdas.tolist(), color=COLORS[0], label="λ̄_k, loss/param²")
    if choice is not None:
        finite = choice.deltas.isfinite() & (choice.deltas > 0)
        places = [ranks[index] for index in choice.kept[finite].tolist()]
        ax.plot(places, choice.deltas[finite].tolist(), "x", color=COLORS[1], label="δ_k, loss/param²")
    ax.legend(frameon=False)
    return tidy(ax, title="Slope, curvature, damping", xlabel=RANK, ylabel="along direction k", yscale="log")


def noise(given: HasChoice | DampedChoice | Directions, ax: Axes | None = None) -> Axes:
    """Draw the signal-to-noise ratio of each directional gradient; pure noise has 1 on average.

    Args:
        given: A recorded group, a choice of directions with dampings, or directions alone.
        ax: Axes to draw on.
    """
    ax = current(ax)
    directions, choice = _parts(given)
    ranks, ratios = _ranks(directions), signal_to_noise(directions)
    kept = torch.zeros(len(directions), dtype=torch.bool)
    kept[:] = choice is None
    if choice is not None:
        kept[choice.kept.cpu()] = True
    for mask, color, label in ((kept, COLORS[0], "kept"), (~kept, GRAY, "left out")):
        places = [rank for rank, chosen in zip(ranks, mask.tolist(), strict=True) if chosen]
        if places:
            ax.plot(places, ratios[mask].tolist(), ".", color=color, label=label)
    ax.axhline(1.0, color=COLORS[1], linewidth=1, label="noise")
    ax.legend(frameon=False)
    return tidy(ax, title="Signal-to-noise", xlabel=RANK, ylabel="γ̄_k² / var(γ̄_k)", yscale="log")


def shares(given: HasChoice | DampedChoice, ax: Axes | None = None) -> Axes:
    """Draw the cumulative shares of the directions in the squared norm of the step and in the predicted decrease.

    Args:
        given: A recorded group, or a choice of directions with dampings.
        ax: Axes to draw on.
    """
    ax = current(ax)
    directions, choice = _parts(given)
    assert choice is not None
    order = choice.damped.evals.argsort(descending=True).cpu()
    ranks = [_ranks(directions)[int(choice.kept[place])] for place in order]
    gains = choice.decreases().cpu()
    whole = float(gains.sum())
    ax.plot(ranks, choice.shares().cpu()[order].cumsum(0).tolist(), color=COLORS[0], label="of the squared norm")
    if whole > 0:
        ax.plot(ranks, (gains[order].cumsum(0) / whole).tolist(), "--", color=COLORS[1], label="of the decrease")
    ax.legend(frameon=False, loc="lower right")
    return tidy(
        ax, title="Which directions carry the step", xlabel=RANK, ylabel="share of the first k", ylim=(-0.02, 1.05)
    )


def _parts(given: HasChoice | DampedChoice | Directions) -> tuple[Directions, DampedChoice | None]:
    if isinstance(given, Directions):
        return given, None
    choice = given if isinstance(given, DampedChoice) else given.choice
    return choice.every, choice


def _ranks(directions: Directions) -> list[int]:
    """Return the rank of each direction, 1 for the largest eigenvalue."""
    ranks: list[int] = (directions.evals.argsort(descending=True).argsort() + 1).tolist()
    return ranks

"""Plots of the effect of a strategy on a typical spectrum."""

import torch
from matplotlib.figure import Figure

from ddn_core.api import Context, Criterion, Damping
from ddn_core.testing import typical_directions

DIRECTIONS = typical_directions(count=60, samples=64, outputs=10, seed=1)
STEPS = {"schedule": (0, 250, 500), "switch": (0, 250, 500)}
CURVATURE, CHOSEN, LEFT = "0.35", "#d55e00", "0.8"  # the second is from the colour-blind-safe palette of Okabe and Ito


def plot_damping(damping: Damping) -> Figure:
    """Return a figure with dampings and curvatures on the left, and steps with and without damping on the right."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    ranks = range(len(DIRECTIONS), 0, -1)
    curvatures, gammas = DIRECTIONS.loss_lambdas, DIRECTIONS.loss_gammas
    left.plot(ranks, curvatures, ".", color=CURVATURE, label="curvature $\\bar\\lambda_k$")
    right.plot(ranks, (gammas / curvatures).abs(), ".", color=LEFT, label="undamped")
    for step, color in zip(STEPS.get(damping.kind, (0,)), (CHOSEN, "#0072b2", "#009e73"), strict=False):
        context = DIRECTIONS.context
        context_at_step = Context(step=step, outputs=10, samples=64, parameters=context.parameters, norms=context.norms)
        deltas = damping(typical_directions(count=60, samples=64, outputs=10, seed=1, context=context_at_step))
        if step and torch.equal(deltas, damping(DIRECTIONS)):
            continue
        label = f" at step {step}" if step else ""
        left.plot(ranks, deltas, ".", color=color, ms=4, label=f"damping $\\delta_k${label}")
        right.plot(ranks, (gammas / (curvatures + deltas)).abs(), ".", color=color, ms=4, label=f"damped{label}")
    left.set(
        xlabel="k, from the largest eigenvalue", ylabel="loss/param²", xscale="log", yscale="log", ylim=(1e-7, 1e3)
    )
    right.set(xlabel="k, from the largest eigenvalue", ylabel="length of the step, param", xscale="log", yscale="log")
    right.set_ylim(1e-6, 1e3)
    left.legend()
    right.legend()
    return figure


def plot_criterion(criterion: Criterion) -> Figure:
    """Return a figure with the chosen eigenvalues on the left, and their directional gradients on the right."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    ranks = torch.arange(len(DIRECTIONS), 0, -1)
    chosen = torch.zeros(len(DIRECTIONS), dtype=torch.bool)
    chosen[criterion(DIRECTIONS)] = True
    gammas = DIRECTIONS.gammas
    errors = gammas.std(0) / len(gammas) ** 0.5
    for mask, color, label in ((~chosen, LEFT, "left out"), (chosen, CHOSEN, f"kept: {int(chosen.sum())}")):
        left.plot(ranks[mask], DIRECTIONS.evals[mask], ".", color=color, label=label)
        right.errorbar(
            ranks[mask],
            gammas.mean(0)[mask].abs(),
            yerr=errors[mask],
            fmt=".",
            color=color,
            elinewidth=0.8,
            label=label,
        )
    left.set(xlabel="k, from the largest eigenvalue", ylabel="$\\lambda_k$, loss/param²", xscale="log", yscale="log")
    right.set(xlabel="k, from the largest eigenvalue", ylabel="$|\\bar\\gamma_k|$, loss/param", xscale="log")
    left.legend()
    right.legend()
    return figure

"""The picture of a run: the loss, and the spectrum of each group."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddn_core.plots.palette import COLORS, tidy
from ddn_core.plots.spectra import spectrum
from ddn_core.plots.subjects import RunHistory

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def run_picture(history: RunHistory) -> Figure:
    """Return a figure with the loss over steps on the left and the eigenvalues on the right."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    loss, right = figure.subplots(1, 2)
    loss.plot([event.step + 1 for event in history.steps], [event.loss for event in history.steps], color="0.6", lw=1)
    ends = [event.step for event in history.epochs]
    loss.plot(ends, [event.train_loss for event in history.epochs], color=COLORS[0], label="training, mean of epoch")
    loss.plot(ends, [event.test_loss for event in history.epochs], color=COLORS[1], label="test")
    loss.legend(frameon=False)
    tidy(loss, xlabel="step", ylabel="loss", yscale="log", title="Loss")
    if not history.spectra:
        right.remove()
        return figure
    named = {}
    for step in sorted({min(history.spectra), max(history.spectra)}):
        for group, evals in enumerate(history.spectra[step]):
            named[f"step {step + 1}" + (f", group {group}" if len(history.spectra[step]) > 1 else "")] = evals
    spectrum(named, right, "Spectrum of the GGN")
    return figure

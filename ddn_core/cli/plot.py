"""The picture of a run: the loss, and the spectrum of each group's Gram matrix."""

from __future__ import annotations

from matplotlib.figure import Figure

from ddn_core.runs.events import History

_GROUP_LINES = ("-", "--", ":", "-.")
_SHOWN_RANGE = 1e-9  # what is smaller, relative to the largest eigenvalue, is mostly rounding
_EARLY, _LATE = "#0072b2", "#d55e00"  # of the colour-blind-safe palette by Okabe and Ito


def plot_run(history: History) -> Figure:
    """Return a figure with the loss over steps at the left and the eigenvalues at the right."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    loss, spectrum = figure.subplots(1, 2)
    loss.plot([event.step + 1 for event in history.steps], [event.loss for event in history.steps], color="0.6", lw=1)
    ends = [event.step for event in history.epochs]
    loss.plot(ends, [event.train_loss for event in history.epochs], color=_EARLY, label="training, mean of epoch")
    loss.plot(ends, [event.test_loss for event in history.epochs], color=_LATE, label="test")
    loss.set(xlabel="step", ylabel="loss", yscale="log", title="Loss")
    loss.legend()

    if not history.spectra:
        spectrum.remove()
        return figure
    chosen = sorted({min(history.spectra), max(history.spectra)})
    for step, color in zip(chosen, (_EARLY, _LATE), strict=False):
        for group, evals in enumerate(history.spectra[step]):
            shown = evals.flip(0)[evals.flip(0) > 0]
            line = _GROUP_LINES[group % len(_GROUP_LINES)]
            label = f"step {step + 1}" + (f", group {group}" if len(history.spectra[step]) > 1 else "")
            spectrum.plot(range(1, len(shown) + 1), shown.tolist(), line, color=color, label=label)
    spectrum.set(
        xlabel="k", ylabel="eigenvalue λ_k, loss/param²", xscale="log", yscale="log", title="Spectrum of the GGN"
    )
    largest = max((float(evals.max()) for step in chosen for evals in history.spectra[step]), default=1.0)
    if largest > 0:
        spectrum.set_ylim(bottom=_SHOWN_RANGE * largest)
    spectrum.legend()
    return figure

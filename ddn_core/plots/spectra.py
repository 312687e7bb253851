"""Eigenvalues at one step and over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ddn_core.api import Directions
from ddn_core.plots.palette import SEQUENCE, current, styles, tidy
from ddn_core.plots.subjects import HasSpectra

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DRAWN_RANGE = 1e-9
"""Smallest eigenvalue that is drawn, relative to the largest; smaller ones are mostly rounding."""

AXES = {"xlabel": "k, largest first", "ylabel": "eigenvalue λ_k, loss/param²", "xscale": "log", "yscale": "log"}


def spectrum(
    spectra: Directions | Tensor | Mapping[str, Directions | Tensor], ax: Axes | None = None, title: str = "Spectrum"
) -> Axes:
    """Draw eigenvalues, the largest first, on logarithmic axes.

    Args:
        spectra: Directions or eigenvalues, loss/param²; or several of them by name.
        ax: Axes to draw on.
        title: Title of the axes.
    """
    ax = current(ax)
    named: Mapping[str, Directions | Tensor] = spectra if isinstance(spectra, Mapping) else {"": spectra}
    largest = 0.0
    for (name, given), style in zip(named.items(), styles(), strict=False):
        values = _descending(given.all_evals if isinstance(given, Directions) else given)
        largest = max(largest, float(values.max()) if len(values) else 0.0)
        ax.plot(range(1, len(values) + 1), values.tolist(), label=name or None, **style)
    if largest > 0:
        ax.set_ylim(bottom=DRAWN_RANGE * largest)
    if any(named):
        ax.legend(frameon=False)
    return tidy(ax, title=title, **AXES)


def spectrum_over_time(
    source: HasSpectra | Mapping[int, Sequence[Tensor]], group: int = 0, ax: Axes | None = None
) -> Axes:
    """Draw the eigenvalues of a group at all known steps, coloured by step.

    Args:
        source: A `Trace`; a `RunRecord`, which has the spectra of its epochs; or the eigenvalues of each group by step.
        group: Number of the group.
        ax: Axes to draw on.
    """
    from matplotlib import colormaps

    ax = current(ax)
    spectra = spectra_of(source, group)
    colors = colormaps[SEQUENCE]
    largest = 0.0
    for place, (step, evals) in enumerate(spectra.items()):
        values = _descending(evals)
        largest = max(largest, float(values.max()) if len(values) else 0.0)
        color = colors(0.9 * place / max(len(spectra) - 1, 1))
        ends = place in (0, len(spectra) - 1)
        ax.plot(range(1, len(values) + 1), values.tolist(), color=color, label=f"step {step}" if ends else None)
    if largest > 0:
        ax.set_ylim(bottom=DRAWN_RANGE * largest)
    if spectra:
        ax.legend(frameon=False)
    return tidy(ax, title=f"Spectrum over time, group {group}", **AXES)


def spectra_of(source: HasSpectra | Mapping[int, Sequence[Tensor]], group: int) -> dict[int, Tensor]:
    """Return the eigenvalues of a group by step, in order."""
    table = source if isinstance(source, Mapping) else source.spectra
    rows = {step: table[step] for step in sorted(table)}
    numbered = {step: row if isinstance(row, Mapping) else dict(enumerate(row)) for step, row in rows.items()}
    return {step: row[group] for step, row in numbered.items() if group in row}


def _descending(evals: Tensor) -> Tensor:
    """Return the positive eigenvalues, the largest first."""
    return torch.sort(evals[evals > 0], descending=True).values

"""Figures of runs, traces and replays as matplotlib axes, for papers and notebooks.

subjects.py    shapes of the objects that the plots draw
palette.py     colours for all kinds of colour vision, and the style of axes
curves.py      losses and metrics of runs; predicted against actual decrease
spectra.py     eigenvalues at one step and over time
directions.py  slope, curvature, noise and share of each direction
candidates.py  strategies on a trace, for comparison
overview.py    the picture in a run folder
notebook.py    a figure as HTML for a notebook

Every function draws on the axes `ax`, or on the current axes of pyplot, and returns the axes.
"""

from ddn_core.plots.candidates import candidate_dampings, candidate_decreases
from ddn_core.plots.curves import learning_curves, predicted_and_actual
from ddn_core.plots.directions import derivatives, noise, shares
from ddn_core.plots.overview import run_picture
from ddn_core.plots.spectra import spectrum, spectrum_over_time

__all__ = [
    "candidate_dampings",
    "candidate_decreases",
    "derivatives",
    "learning_curves",
    "noise",
    "predicted_and_actual",
    "run_picture",
    "shares",
    "spectrum",
    "spectrum_over_time",
]

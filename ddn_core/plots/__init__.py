"""Figures of runs, traces and replays as matplotlib axes, for papers and notebooks.

subjects.py    shapes of the objects that the plots draw
palette.py     colours that colour-blind people tell apart, and how axes look
curves.py      losses and metrics of runs; predicted against actual decrease
spectra.py     eigenvalues, at one step and over time
directions.py  what is known of each direction, and what each does for the step
candidates.py  strategies on a trace, side by side
overview.py    the picture in a run folder
notebook.py    a figure in the HTML that a notebook shows

Every function takes `ax`, the axes to draw on, or draws on pyplot's current ones, and returns the axes.
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

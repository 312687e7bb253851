"""Imports, and a first picture: made once by the server from which the processes of the tests are forked.

Nothing here may start a thread, since a fork would not have it.
"""

from __future__ import annotations

import io
import warnings

import backpack  # noqa: F401
import pytest  # noqa: F401
import sklearn.datasets  # noqa: F401
import torch
from matplotlib.figure import Figure

import ddn_core.cli.app
import ddn_core.optim  # noqa: F401
from ddn_core.plots.spectra import spectrum

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch's own; the first optimizer imports this
    import torch._dynamo

# Fonts are read, and labels of logarithmic axes laid out, for the first picture of a process.
spectrum(torch.logspace(-3, 1, 20), Figure().add_subplot()).figure.savefig(io.BytesIO())

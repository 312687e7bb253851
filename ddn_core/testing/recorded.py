"""A trace of a real run, to see what a strategy does on real spectra."""

from __future__ import annotations

from pathlib import Path

from ddn_core.traces import Trace


def digits_trace() -> Trace:
    """Return recorded curvature of a network on the digits, from early, in the middle, and late in training.

    A fully connected network (64-128-64-10, tanh), one group, batches of 32: steps 0, 30 and 170 with their 64 leading
    directions (of 288, 189 and 106), at losses of 2.3, 0.25 and 0.09. The config of the run lies beside the trace.
    """
    return Trace.read(Path(__file__).parent / "digits_trace")

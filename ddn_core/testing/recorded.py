"""A trace of a real run, to try strategies on real spectra."""

from __future__ import annotations

from pathlib import Path

from ddn_core.traces import Trace


def digits_trace() -> Trace:
    """Return recorded curvature of a network on the digits, from the start, the middle and the end of training.

    The network is fully connected (64-128-64-10, tanh) and has one group; batches have 32 samples. The trace has steps
    0, 30 and 170 with the 64 leading of 288, 189 and 106 directions, at losses of 2.3, 0.25 and 0.09. The config of the
    run is in the folder of the trace.
    """
    return Trace.read(Path(__file__).parent / "digits_trace")

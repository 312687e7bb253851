"""Recorded curvature: written during a run, and tried with any strategy afterwards, without a model.

index.py      everything but the tensors, as one JSON file
tensors.py    tensors in a file
recording.py  a recorder, which writes a trace between backward pass and step
trace.py      a trace, read back
halves.py     what a step is worth on samples that it has not seen
replay.py     strategies on a trace, side by side
"""

from ddn_core.measures import DampedChoice, signal_to_noise
from ddn_core.traces.halves import expected_decrease, halves
from ddn_core.traces.recording import Recorder
from ddn_core.traces.replay import RECORDED, Replay, Replayed, replay
from ddn_core.traces.trace import Trace, TraceGroup, TraceStep

__all__ = [
    "RECORDED",
    "DampedChoice",
    "Recorder",
    "Replay",
    "Replayed",
    "Trace",
    "TraceGroup",
    "TraceStep",
    "expected_decrease",
    "halves",
    "replay",
    "signal_to_noise",
]

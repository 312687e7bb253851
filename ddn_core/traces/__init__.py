"""Recorded curvature: written during a run, and later replayed with any strategies, without a model.

index.py      all but the tensors, as one JSON file
tensors.py    tensors in a file
recording.py  the recorder, which writes a trace between backward pass and step
trace.py      a trace, read back
halves.py     expected decrease of the loss on samples that did not make the step
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

"""The records of runs: events, checkpoints, run folders that are read back, and the comparison of several runs.

events.py        a step, an evaluation, the end of a run, and the history of both in memory
checkpoints.py   the state of a run in a file, written atomically and read without running code
record.py        a run folder, read back: for leaderboards, plots and reports
scores.py        the score of a run: last and best values, and the time to a target
significance.py  conclusions about chance from few paired runs
comparison.py    several configs with several seeds, side by side
"""

from ddn_core.runs.comparison import Comparison
from ddn_core.runs.events import EndEvent, EvaluationEvent, History, StepEvent, StepFigures
from ddn_core.runs.record import RunRecord
from ddn_core.runs.scores import Target

__all__ = [
    "Comparison",
    "EndEvent",
    "EvaluationEvent",
    "History",
    "RunRecord",
    "StepEvent",
    "StepFigures",
    "Target",
]

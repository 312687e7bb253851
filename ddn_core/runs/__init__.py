"""What a run leaves: its events, its checkpoints, and the folder they are in, read back.

events.py        a step, an evaluation, what is kept of them in memory
checkpoints.py   the state of a run in a file, written atomically and read without running code
record.py        a run folder, read back: for leaderboards, plots and reports
scores.py        what a run came to: last and best values, when it reached a target
significance.py  what few paired runs can say about chance
comparison.py    several configs with several seeds, side by side
"""

from ddn_core.runs.comparison import Comparison
from ddn_core.runs.events import EvaluationEvent, History, StepEvent, StepFigures
from ddn_core.runs.record import RunRecord
from ddn_core.runs.scores import Target

__all__ = ["Comparison", "EvaluationEvent", "History", "RunRecord", "StepEvent", "StepFigures", "Target"]

"""What a run leaves: its events, its checkpoints, and the folder they are in, read back.

events.py        a step, an evaluation, what is kept of them in memory
checkpoints.py   the state of a run in a file, written atomically and read without running code
record.py        a run folder, read back: for leaderboards, plots and reports
"""

from ddn_core.runs.events import EvaluationEvent, History, StepEvent, StepFigures
from ddn_core.runs.record import RunRecord

__all__ = ["EvaluationEvent", "History", "RunRecord", "StepEvent", "StepFigures"]

"""The trainer: a config becomes a run. It writes to no terminal; callbacks report its progress.

train.py        the whole run in one call
problem.py      the config's problem, loaded and checked
stepping.py     one training step, by our optimizer or by one of torch's
loop.py         the training loop, as a stream of events
ending.py       the rules that end a run before its last epoch, and divergence
advice.py       changes that may help a run that diverged
randomness.py   the state of every random generator that a run draws from
run_folder.py   the files of a run
"""

from ddn_core.training.train import RunStart, TrainingResult, train

__all__ = ["RunStart", "TrainingResult", "train"]

"""Many training runs, each in a process of its own: the mechanism of `ddn sweep` and `ddn compare`, without a terminal.

space.py        the values that a sweep searches
plan.py         the plan of all trials, and the task that each trial gives to the runner
sweep.py        the plan of a sweep, its ranking and its tables
comparison.py   the plan of a comparison, and its tables
folder.py       the folder of a plan: its lock, and the results in it
process.py      the process of one trial, as parent and child see it, and the result of the trial
runner.py       several processes at a time
"""

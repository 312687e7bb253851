"""Many training runs, each a process of its own: what `ddn sweep` and `ddn compare` share.

plan.py      what a command runs: a plan that is written down, and a task for each trial
folder.py    the folder of a plan: who may write it, and what in it is finished
process.py   one child process: how it starts, and what it left
child.py     the child's side: it trains, and dies with its parent
runner.py    several children at a time
display.py   progress, a line for each trial that ends, those that failed
session.py   from a plan to its results: begin or go on, run what has not ended, tell of an interrupt
"""

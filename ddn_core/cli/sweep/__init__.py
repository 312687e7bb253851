"""`ddn sweep`: one training run for each combination of config values.

space.py     what is searched: assignments from text to combinations
plan.py      the trials of a sweep, validated and written down before any starts
folder.py    the folder of a sweep: who may write it, and what in it is finished
trial.py     one child process: how it starts, and what it left
child.py     the child's side: it trains, and dies with its parent
runner.py    several children at a time
table.py     ranking, CSV, the best config
display.py   what a sweep shows
command.py   all of it in order
"""

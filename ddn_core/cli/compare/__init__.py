"""`ddn compare`: several configs of one problem, with the same seeds.

plan.py      the trials of a comparison, validated and written down before any starts
scores.py    what the trials that have ended came to, each read once
table.py     CSV and JSON
display.py   the leaderboard
command.py   all of it in order

How trials are run is in `ddn_core.cli.trials`, what is made of them in `ddn_core.runs.comparison`.
"""

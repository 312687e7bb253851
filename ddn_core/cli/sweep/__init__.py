"""`ddn sweep`: one training run for each combination of config values.

space.py     what is searched: assignments from text to combinations
plan.py      the trials of a sweep, validated and written down before any starts
table.py     ranking, CSV, the best config
display.py   what a sweep shows at its end
command.py   all of it in order

How trials are run is in `ddn_core.cli.trials`.
"""

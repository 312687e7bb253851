"""The trainer: a config becomes a run. It knows no terminal; progress goes to callbacks.

problem.py      the config's problem, loaded and checked
stepping.py     one training step, by our optimizer or by one of torch's
loop.py         the training loop, as a stream of events
randomness.py   the state of every random generator that a run draws from
run_folder.py   the files of a run
"""

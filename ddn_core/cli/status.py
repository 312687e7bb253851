"""Exit statuses of the `ddn` command; `ddn_core.trials.process` has the one of a run that diverged."""

FAILED = 1
"""Exit status after an error."""
INTERRUPTED = 130
"""Exit status after an interrupt from the keyboard."""

"""Finding the run that `ddn train --resume` is to go on with, before torch is needed."""

from __future__ import annotations

from pathlib import Path

from ddn_core.errors import ArgumentError
from ddn_core.runs.record import CONFIG


def resumed_config(run: Path) -> Path:
    """Return the resolved config of a run.

    Raises:
        ArgumentError: The folder is no run folder.
    """
    if not (run / CONFIG).is_file():
        what = "there is no such folder" if not run.exists() else f"it has no {CONFIG}"
        raise ArgumentError(f"--resume: {run} is no run that has begun: {what}. Begin it with ddn train CONFIG --out.")
    return run / CONFIG

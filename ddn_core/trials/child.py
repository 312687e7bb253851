"""The child's end of a trial's process: the child dies with its parent.

The parent holds the other end of standard input and never writes to it. However the parent ends, the system closes
that end, and a read in the child returns.
"""

from __future__ import annotations

import os
import signal
import threading


def die_with_parent() -> None:
    """Kill this process, and those that it has started, as soon as its parent has ended."""
    lifeline = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)  # code of the trial that reads standard input finds it empty
    os.close(nothing)
    threading.Thread(target=_watch, args=(lifeline,), daemon=True).start()


def _watch(lifeline: int) -> None:
    os.read(lifeline, 1)
    if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)  # workers that load data belong to the group
    os._exit(1)

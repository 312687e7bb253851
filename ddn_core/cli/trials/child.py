"""The child's side of a trial: it trains, and dies with its parent.

The parent holds the other end of standard input and never writes. However it ends, the system closes that end, and a
read here returns.
"""

from __future__ import annotations

import os
import signal
import threading


def die_with_parent() -> None:
    """End this process, and those that it started, as soon as its parent ends."""
    lifeline = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)  # what runs here finds no input
    os.close(nothing)
    threading.Thread(target=_wait_and_die, args=(lifeline,), daemon=True).start()


def _wait_and_die(lifeline: int) -> None:
    os.read(lifeline, 1)
    if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)  # with the processes that load data, if there are any
    os._exit(1)

"""Protection of the process from code of plugins: their output, and the global settings that they change."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def contained(keep_random_state: bool = True) -> Iterator[None]:
    """Return a context for the code of a plugin, whose effects on the process end with it.

    Standard output belongs to the command, so that what the plugin prints in Python goes to standard error; output of C
    code and of child processes is not redirected. After the context, these are as before: the working directory, the
    handlers of SIGINT and SIGTERM, and, of torch, the grad mode, the default dtype, the default device and the state of
    the global random generator.

    Args:
        keep_random_state: Whether the random generator is among them.
    """
    restore = [_folder(), _signals(), _torch(keep_random_state)]
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        for each in restore:
            each()


def _folder() -> Callable[[], None]:
    """Return a function that goes back to the working directory of now."""
    try:
        folder = os.getcwd()
    except OSError:  # it has been deleted
        return lambda: None

    def restore() -> None:
        with contextlib.suppress(OSError):  # the plugin has deleted it
            os.chdir(folder)

    return restore


def _signals() -> Callable[[], None]:
    """Return a function that sets the handlers of now for the signals that end a command."""
    if threading.current_thread() is not threading.main_thread():
        return lambda: None  # other threads cannot set handlers
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in handlers.items():
            if handler is not None and signal.getsignal(number) is not handler:  # None: not set from Python
                signal.signal(number, handler)

    return restore


def _torch(keep_random_state: bool) -> Callable[[], None]:
    """Return a function that restores the modes of torch, which are those of the start if torch is not loaded yet."""
    torch: Any = sys.modules.get("torch")
    before = None if torch is None else _modes(torch)
    random = torch.default_generator.get_state() if torch is not None and keep_random_state else None

    def restore() -> None:
        torch: Any = sys.modules.get("torch")
        if torch is None:
            return
        enabled, dtype, device = before or (True, torch.float32, torch.device("cpu"))
        if torch.is_grad_enabled() != enabled:
            torch.set_grad_enabled(enabled)
        if torch.get_default_dtype() != dtype:
            torch.set_default_dtype(dtype)
        if torch.get_default_device() != device:
            torch.set_default_device(None if device.type == "cpu" else device)
        if keep_random_state:
            torch.default_generator.seed() if random is None else torch.default_generator.set_state(random)

    return restore


def _modes(torch: Any) -> tuple[bool, Any, Any]:
    return torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_default_device()

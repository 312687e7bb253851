"""The process of the `ddn` command: its streams, an interrupt while modules load, and its exit status."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import warnings
from contextlib import suppress
from types import FrameType
from typing import Any

from ddn_core.cli.status import FAILED, INTERRUPTED
from ddn_core.errors import unwritable
from ddn_core.text import printable, printable_lines

_STREAMS = ("stdin", "stdout", "stderr")


def run() -> int:
    """Run the command that the arguments of this process name, and return its exit status."""
    was_open = _prepare_streams()
    _prepare_interrupts()
    warnings.formatwarning = _formatted_warning
    if not was_open:
        return _failed("Standard output is closed. To discard the output, use: > /dev/null")
    try:
        from ddn_core.cli.app import app
    except ImportError as error:
        return _failed(f"The command line needs {error.name}: pip install 'ddn-core[train]'")
    except KeyboardInterrupt:
        return INTERRUPTED
    try:
        status = app(standalone_mode=False)
    except SystemExit as error:  # rich ends the process so, if the reader of the help has ended
        status = error.code if isinstance(error.code, int) else FAILED
    except KeyboardInterrupt:
        status = INTERRUPTED
    except OSError as error:  # from the help, which typer prints
        status = _failed(unwritable("Standard output", error))
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        status = _usage_error(error)
    status = _flushed(status or 0)
    if signal.getsignal(signal.SIGINT) is _interrupted:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command has ended; modules that are torn down would complain
    return status


def _usage_error(error: Any) -> int:
    """Print an error in the arguments, as typer does, but with what they contain made printable."""
    from typer import rich_utils

    error.message = printable(error.message)
    with suppress(OSError):
        rich_utils.rich_format_error(error)
    status: int = error.exit_code
    return status


def _failed(message: str) -> int:
    """Print an error, if there is a place for it, and return the exit status."""
    try:
        print(f"error: {printable_lines(message)}", file=sys.stderr, flush=True)
    except OSError:
        _discard(2)
    return FAILED


def _flushed(status: int) -> int:
    """Write the buffered output, and return the exit status."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has ended, and needs no message
        status = status or FAILED
        _discard(1)
    except OSError as error:
        status = _failed(unwritable("Standard output", error))
        _discard(1)
    return status


def _prepare_streams() -> bool:
    """Prepare the streams for text that they cannot encode, and return whether standard output is open.

    A letter that an output cannot encode becomes a question mark. The numbers of closed streams are occupied, because
    the system would give them to the next files that are opened, and text for a stream would be written into a file.
    """
    was_open = sys.stdout is not None
    for number, name in enumerate(_STREAMS):
        if getattr(sys, name) is None:
            _discard(number)
            setattr(sys, name, open(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors in ("strict", "surrogateescape"):
        sys.stdout.reconfigure(errors="replace")
    return was_open


def _discard(number: int) -> None:
    """Send further output of a file descriptor to the null device, since Python flushes the streams when it ends."""
    nothing = os.open(os.devnull, os.O_RDWR)
    if nothing != number:
        os.dup2(nothing, number)
        os.close(nothing)


def _prepare_interrupts() -> None:
    is_default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_default and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _interrupted)


def _interrupted(number: int, frame: FrameType | None) -> None:
    """End the process if modules are being imported, and raise `KeyboardInterrupt` otherwise.

    Code that imports a module may swallow an exception, or turn it into another one, and there is nothing to clean up.
    """
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os._exit(INTERRUPTED)
        frame = frame.f_back
    raise KeyboardInterrupt


_format_warning = warnings.formatwarning


def _formatted_warning(*arguments: Any, **options: Any) -> str:
    return printable_lines(_format_warning(*arguments, **options))

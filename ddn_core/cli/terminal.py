"""The terminal: every command prints through it.

A string is printed literally: markup in it is not interpreted, and control characters, line breaks included, are
escaped. Text of several lines is printed as `lines(text)`.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any, TextIO, cast

from rich.console import Console
from rich.text import Text

from ddn_core.errors import DdnError, unwritable
from ddn_core.text import printable, printable_lines


class OutputError(DdnError):
    """Standard output or standard error cannot be written.

    Attributes:
        was_closed: Whether the reader of a pipe has ended, as in `ddn plugins | head`.
    """

    def __init__(self, stream: str, error: OSError) -> None:
        super().__init__(unwritable(stream, error))
        self.was_closed = isinstance(error, BrokenPipeError)


class Terminal(Console):
    """A console that shows strings as they are, and reports a stream that cannot be written as an `OutputError`."""

    def __init__(self, stderr: bool = False) -> None:
        stream, name = (sys.stderr, "Standard error") if stderr else (sys.stdout, "Standard output")
        super().__init__(file=cast(TextIO, _Stream(stream, name)), markup=False, emoji=False, highlight=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a string as text that can be printed."""
        return super().render_str(printable(text), **options)

    def write(self, text: str) -> None:
        """Write a line for programs, without any change."""
        self.file.write(f"{text}\n")


class _Stream:
    """A stream of the process whose errors name it."""

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream = stream
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            raise OutputError(self._name, error) from error

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            raise OutputError(self._name, error) from error


def lines(text: str, style: str = "") -> Text:
    """Return a text of several lines, or of one line with a style, that can be printed."""
    return Text(printable_lines(text), style)


def say(console: Console, line: str, style: str | None = None) -> None:
    """Print one line without wrapping it."""
    console.print(lines(printable(line)), style=style, soft_wrap=True)


def say_error(text: str) -> None:
    """Print an error on standard error. If standard error cannot be written, the error is dropped."""
    with suppress(OutputError):
        Terminal(stderr=True).print(lines(f"error: {text}"), style="red", soft_wrap=True)

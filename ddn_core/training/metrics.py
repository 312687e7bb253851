"""The metrics of a run on disk: a line of JSON for each event."""

from __future__ import annotations

import json
import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from ddn_core.errors import ArgumentError
from ddn_core.files import writing
from ddn_core.runs.events import EndEvent, EvaluationEvent, StepEvent

_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


class MetricsFile:
    """The file of metrics. Each event is appended unbuffered, so that it survives a kill, and whole or not at all."""

    def __init__(self, path: Path) -> None:
        """Use a file, which the first event creates."""
        self._path = path
        self._descriptor: int | None = None

    def sync(self) -> int:
        """Have the system store all events, so that they survive a loss of power, and return the size in bytes."""
        if self._descriptor is not None:
            with writing(self._path):
                os.fsync(self._descriptor)
        return self._path.stat().st_size if self._path.exists() else 0

    def append(self, event: StepEvent | EvaluationEvent | EndEvent) -> None:
        """Append an event.

        Raises:
            ArgumentError: The line cannot be written, and the file has no part of it.
        """
        name = "step" if isinstance(event, StepEvent) else "end" if isinstance(event, EndEvent) else "evaluation"
        if isinstance(event, EvaluationEvent) and event.ends_epoch:
            name = "epoch"
        line = json.dumps({"event": name, **_finite(vars(event))}, allow_nan=False) + "\n"
        with writing(self._path):
            if self._descriptor is None:
                self._descriptor = os.open(self._path, _FLAGS, 0o666)
            _write_whole(self._descriptor, line.encode())

    def cut(self, size: int) -> list[str]:
        """Cut off all after a number of bytes, and what is left of a line there; return a remark about torn lines.

        Raises:
            ArgumentError: The file is shorter than that, or it cannot be written.
        """
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            content = b""
        except OSError as error:
            raise ArgumentError(f"{self._path} cannot be read: {error.strerror}.") from error
        if len(content) < size:
            raise ArgumentError(
                f"The run cannot be resumed, because {self._path} was changed: it has {len(content)} bytes, and had "
                f"{size} when the newest checkpoint was written."
            )
        whole = content.rfind(b"\n", 0, size) + 1
        if len(content) > whole:
            with writing(self._path):
                os.truncate(self._path, whole)
        is_torn = whole < size or not content.endswith(b"\n")
        return [f"{self._path} ended in a part of a line, which was removed"] if content and is_torn else []

    def close(self) -> None:
        """Close the file."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            with writing(self._path):
                os.close(descriptor)


def _write_whole(descriptor: int, line: bytes) -> None:
    """Append a line to a file, or nothing: on a full disk, the system may write a part and report no error."""
    before = os.fstat(descriptor).st_size
    try:
        rest = memoryview(line)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    except BaseException:
        with suppress(OSError):
            os.ftruncate(descriptor, before)
        raise


def _finite(value: Any) -> Any:
    """Return plain data with null in place of NaN and infinities, which JSON lacks."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

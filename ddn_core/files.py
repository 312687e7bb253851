"""Writing files whole or not at all, with errors that name the file."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ddn_core.errors import ArgumentError

OWN = os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
"""Flags to open a file that this process creates: it is an error if anything has its name, a symbolic link included."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise errors of the operating system as `ArgumentError`, with the path of the file or folder that is written.

    Raises:
        ArgumentError: The disk is full, the folder is read-only, the name is too long, or the like.
    """
    try:
        yield
    except OSError as error:
        raise ArgumentError(f"{path} cannot be written: {error.strerror or error}.") from error


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a kill at any time leaves either the old file or the new one.

    The content is first written to a new file beside it. If the path is a symbolic link, the link is replaced, and the
    file that it points to stays as it is. A pipe or a device, such as `/dev/null`, is not replaced.

    Raises:
        ArgumentError: The file cannot be written; the old file is still there.
    """
    with writing(path):
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise ArgumentError(f"{path} is a pipe or a device, and ddn does not replace it. Name a file.")
        partial = path.with_name(f".{path.name[:50]}.{secrets.token_hex(8)}.partial")
        descriptor = os.open(partial, os.O_WRONLY | OWN, 0o666)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            with suppress(OSError):
                partial.unlink()
            raise


def is_partial(path: Path, name: str) -> bool:
    """Return whether a killed process left a file half written that was to have this name."""
    return path.name.startswith(f".{name[:50]}.") and path.name.endswith(".partial")


def remove_partial_files(folder: Path) -> None:
    """Remove the files that killed processes left half written in a folder, which no other process may be writing."""
    for path in folder.glob(".*.partial"):
        with suppress(OSError):
            path.unlink()

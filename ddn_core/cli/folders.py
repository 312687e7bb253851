"""New folders to write into."""

from __future__ import annotations

from pathlib import Path

from ddn_core.errors import ArgumentError


def new_folder(path: Path) -> Path:
    """Return an empty folder, which is made if it is not there.

    Raises:
        ArgumentError: It has something in it, or cannot be written.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ArgumentError(f"--out: {path} is not empty. Name a new folder.")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArgumentError(f"--out: {path} cannot be written: {error.strerror}") from error
    return path

"""Checkpoints of a run: written atomically, read without running code, and checked before use."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ddn_core.errors import ArgumentError
from ddn_core.files import write_atomically

FORMAT = "ddn checkpoint 1"
FOLDER = "checkpoints"
KEPT = 2
"""Number of checkpoints that are kept. If the newest cannot be used, a resumed run uses the one before."""

KEYS = ("model", "optimizer", "config", "progress", "random")
"""Required entries of a checkpoint, besides its format."""


def save_checkpoint(path: Path, checkpoint: Mapping[str, Any]) -> None:
    """Write a checkpoint."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **checkpoint}, buffer)
    write_atomically(path, buffer.getvalue())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Return a checkpoint, without running code in it.

    Raises:
        ArgumentError: The file is damaged, or is not a checkpoint of `ddn train`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise ArgumentError(f"{path}: is damaged: the checksum of {damaged} is wrong")
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except ArgumentError:
        raise
    except OSError as error:
        raise ArgumentError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # zipfile and torch raise many types for a file that is cut off or of another kind
        raise ArgumentError(
            f"{path}: is truncated, or no checkpoint ({type(error).__name__}: {str(error).splitlines()[0]})"
        ) from error
    if not isinstance(loaded, dict) or loaded.get("format") != FORMAT or any(key not in loaded for key in KEYS):
        raise ArgumentError(f"{path}: is no checkpoint of `ddn train`, or of another version")
    return loaded


class CheckpointFolder:
    """The checkpoints of a run that is not finished."""

    def __init__(self, run: Path) -> None:
        """Use the folder of a run."""
        self._folder = run / FOLDER

    def paths(self) -> list[Path]:
        """Return the checkpoints, the newest first."""
        found = [path for path in self._folder.glob("step-*.pt") if re.fullmatch(r"step-\d+\.pt", path.name)]
        return sorted(found, key=lambda path: int(path.stem.removeprefix("step-")), reverse=True)

    def write(self, step: int, checkpoint: Mapping[str, Any]) -> None:
        """Write the checkpoint after a step, and then remove the oldest."""
        self._folder.mkdir(exist_ok=True)
        save_checkpoint(self._folder / f"step-{step:08}.pt", checkpoint)
        for path in self.paths()[KEPT:]:
            path.unlink()

    def newest(self) -> tuple[dict[str, Any] | None, list[str]]:
        """Return the newest checkpoint that can be used, and a line for each newer one that cannot."""
        complaints: list[str] = []
        for path in self.paths():
            try:
                return load_checkpoint(path), complaints
            except ArgumentError as error:
                complaints.append(str(error))
        return None, complaints

    def remove(self) -> None:
        """Remove all checkpoints of a finished run, and the partial files of a killed process."""
        for path in [*self.paths(), *self._folder.glob(".*.partial")]:
            path.unlink(missing_ok=True)
        if self._folder.is_dir():
            self._folder.rmdir()

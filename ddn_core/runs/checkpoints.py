"""Checkpoints of a run: written atomically, read without unpickling code, and checked before they are used."""

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
"""Number of checkpoints that are kept: where the newest cannot be used, the one before it is."""

KEYS = ("model", "optimizer", "config", "progress", "random")
"""What a checkpoint has beside its format."""


def save_checkpoint(path: Path, checkpoint: Mapping[str, Any]) -> None:
    """Write a checkpoint."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **checkpoint}, buffer)
    write_atomically(path, buffer.getvalue())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Return a checkpoint; no code in it is run.

    Raises:
        ArgumentError: The file is damaged, or no checkpoint of `ddn train`.
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
    except Exception as error:  # zipfile's and torch's, for a file that is cut off or something else
        raise ArgumentError(
            f"{path}: is truncated, or no checkpoint ({type(error).__name__}: {str(error).splitlines()[0]})"
        ) from error
    if not isinstance(loaded, dict) or loaded.get("format") != FORMAT or any(key not in loaded for key in KEYS):
        raise ArgumentError(f"{path}: is no checkpoint of `ddn train`, or of another version")
    return loaded


class CheckpointFolder:
    """The checkpoints of a run that is not finished, newest first."""

    def __init__(self, run: Path) -> None:
        """Take the folder of a run."""
        self._folder = run / FOLDER

    def paths(self) -> list[Path]:
        """Return the checkpoints, the newest first."""
        found = [path for path in self._folder.glob("step-*.pt") if re.fullmatch(r"step-\d+\.pt", path.name)]
        return sorted(found, key=lambda path: int(path.stem.removeprefix("step-")), reverse=True)

    def write(self, step: int, checkpoint: Mapping[str, Any]) -> None:
        """Write the checkpoint after a step, and drop the oldest; the one before stays until it is there."""
        self._folder.mkdir(exist_ok=True)
        save_checkpoint(self._folder / f"step-{step:08}.pt", checkpoint)
        for path in self.paths()[KEPT:]:
            path.unlink()

    def newest(self) -> tuple[dict[str, Any] | None, list[str]]:
        """Return the newest checkpoint that can be used, and a line for each that cannot."""
        complaints: list[str] = []
        for path in self.paths():
            try:
                return load_checkpoint(path), complaints
            except ArgumentError as error:
                complaints.append(str(error))
        return None, complaints

    def remove(self) -> None:
        """Remove all of them, and what a killed process left: the run is finished."""
        for path in [*self.paths(), *self._folder.glob(".*.partial")]:
            path.unlink(missing_ok=True)
        if self._folder.is_dir():
            self._folder.rmdir()

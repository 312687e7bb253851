"""Checkpoints of a run: written atomically, read without running code, and checked before use."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, JsonValue, ValidationError
from pydantic_core import PydanticCustomError
from torch import Tensor

from ddn_core.errors import ArgumentError
from ddn_core.files import remove_partial_files, write_atomically, writing
from ddn_core.foreign import Count, check_regular, mistake

FORMAT: Literal["ddn checkpoint 1"] = "ddn checkpoint 1"
CHECKPOINTS = "checkpoints"
KEPT = 2
"""Number of checkpoints that are kept. If the newest cannot be used, a resumed run uses the one before."""


def _eigenvalues(tensor: Tensor) -> Tensor:
    if tensor.dim() != 1 or not tensor.is_floating_point():
        raise PydanticCustomError("eigenvalues", "Input should be a list of eigenvalues")
    return tensor


def _with_provenance(config: dict[str, JsonValue]) -> dict[str, JsonValue]:
    if not isinstance(config.get("provenance", {}), dict):
        raise PydanticCustomError("provenance", "Input should be a config whose provenance is a table")
    return config


class _Checkpoint(BaseModel):
    """The entries of a checkpoint that its readers rely on."""

    model_config = ConfigDict(strict=True, arbitrary_types_allowed=True)

    format: Literal["ddn checkpoint 1"]
    model: dict[str, Any]
    optimizer: dict[str, Any]
    config: Annotated[dict[str, JsonValue], AfterValidator(_with_provenance)]
    progress: dict[str, Any]
    random: dict[str, Any]
    spectra: dict[Count, list[Annotated[Tensor, AfterValidator(_eigenvalues)]]] = {}
    metrics_bytes: Count = 0


def save_checkpoint(path: Path, checkpoint: Mapping[str, Any]) -> None:
    """Write a checkpoint.

    Raises:
        ArgumentError: The file cannot be written.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **checkpoint}, buffer)
    write_atomically(path, buffer.getvalue())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Return a checkpoint, without running code in it.

    Raises:
        ArgumentError: The file is damaged, or is not a checkpoint of `ddn train`.
    """
    try:
        check_regular(path)
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
            f"{path}: is truncated, or no checkpoint ({type(error).__name__}: {str(error).partition(chr(10))[0]})"
        ) from error
    if not isinstance(loaded, dict) or loaded.get("format") != FORMAT:
        raise ArgumentError(f"{path}: is not a checkpoint of `ddn train`, or of another version")
    try:
        return {**loaded, **dict(_Checkpoint.model_validate(loaded))}
    except ValidationError as error:
        raise ArgumentError(f"{path}: is not a checkpoint of `ddn train`: {mistake(error)}") from error


class CheckpointFolder:
    """The checkpoints of a run that is not finished."""

    def __init__(self, run: Path) -> None:
        """Use the folder of a run."""
        self._folder = run / CHECKPOINTS

    def paths(self) -> list[Path]:
        """Return the checkpoints, the newest first. Other files in the folder are ignored."""
        found = [path for path in self._folder.glob("step-*.pt") if re.fullmatch(r"step-\d+\.pt", path.name)]
        return sorted(found, key=_step, reverse=True)

    def write(self, step: int, checkpoint: Mapping[str, Any]) -> None:
        """Write the checkpoint after a step, and then remove the oldest.

        Raises:
            ArgumentError: The checkpoint cannot be written; those before it are still there.
        """
        with writing(self._folder):
            self._folder.mkdir(exist_ok=True)
        save_checkpoint(self._folder / f"step-{step:08}.pt", checkpoint)
        for path in [path for path in self.paths() if _step(path) <= step][KEPT:]:
            _remove(path)

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
        """Remove all checkpoints of a finished run, and the folder, unless it has other files."""
        for path in self.paths():
            _remove(path)
        remove_partial_files(self._folder)
        with suppress(OSError):
            self._folder.rmdir()


def _step(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))


def _remove(path: Path) -> None:
    """Remove a checkpoint. If this fails, the run only takes more space."""
    with suppress(OSError):
        path.unlink()

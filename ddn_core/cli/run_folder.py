"""What a run writes: resolved config, metrics, final checkpoint, picture."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ddn_core.cli.plot import plot_run
from ddn_core.cli.training import EpochEvent, History, StepEvent
from ddn_core.errors import ArgumentError

CONFIG = "config.resolved.json"
METRICS = "metrics.jsonl"
CHECKPOINT = "checkpoint.pt"
PICTURE = "run.png"


@dataclass(frozen=True)
class RunFolder:
    """A run folder that is being written."""

    path: Path

    @classmethod
    def claim(cls, path: Path) -> RunFolder:
        """Return a run folder that can be written; nothing is written yet.

        Raises:
            ArgumentError: The path exists and is no empty folder.
        """
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ArgumentError(f"--out: {path} is not empty. Name a new folder, so that no run is overwritten.")
        return cls(path)

    def begin(self, resolved: dict[str, Any]) -> None:
        """Make the folder, and write the resolved config into it.

        Raises:
            ArgumentError: The folder cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / CONFIG).write_text(json.dumps(resolved, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise ArgumentError(f"--out: {self.path} cannot be written: {error.strerror}") from error

    def record(self, event: StepEvent | EpochEvent) -> None:
        """Append an event to the metrics, one JSON object a line; what was written survives if the run dies."""
        name = "step" if isinstance(event, StepEvent) else "epoch"
        with (self.path / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"event": name, **_finite(asdict(event))}, allow_nan=False) + "\n")

    def finish(self, checkpoint: dict[str, Any], history: History) -> None:
        """Write the final checkpoint and the picture."""
        torch.save(checkpoint, self.path / CHECKPOINT)
        plot_run(history).savefig(self.path / PICTURE, dpi=120)


def _finite(value: Any) -> Any:
    """Return plain data with null in place of NaN and infinities, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value

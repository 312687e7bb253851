"""What a run writes: resolved config, metrics, final checkpoint, picture."""

from __future__ import annotations

import json
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
    def create(cls, path: Path, resolved: dict[str, Any]) -> RunFolder:
        """Make the folder, and write the resolved config into it.

        Raises:
            ArgumentError: The folder exists and is not empty, or cannot be made.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
            if any(path.iterdir()):
                raise ArgumentError(f"--out: {path} is not empty. Name a new folder, so that no run is overwritten.")
            (path / CONFIG).write_text(json.dumps(resolved, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise ArgumentError(f"--out: {path} cannot be written: {error.strerror}") from error
        return cls(path)

    def record(self, event: StepEvent | EpochEvent) -> None:
        """Append an event to the metrics, one JSON object a line; what was written survives if the run dies."""
        name = "step" if isinstance(event, StepEvent) else "epoch"
        with (self.path / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"event": name, **asdict(event)}) + "\n")

    def finish(self, checkpoint: dict[str, Any], history: History) -> None:
        """Write the final checkpoint and the picture."""
        torch.save(checkpoint, self.path / CHECKPOINT)
        plot_run(history).savefig(self.path / PICTURE, dpi=120)

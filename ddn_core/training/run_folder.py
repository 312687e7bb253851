"""The run folder: resolved config, metrics, checkpoints and picture of a run, and resuming from them."""

from __future__ import annotations

import io
import json
import math
import shutil
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ddn_core.errors import ArgumentError
from ddn_core.files import write_atomically
from ddn_core.plots import run_picture
from ddn_core.runs.checkpoints import CheckpointFolder, save_checkpoint
from ddn_core.runs.events import EndEvent, EvaluationEvent, StepEvent
from ddn_core.runs.record import CHECKPOINT, CONFIG, METRICS, PICTURE, TRACE, read_events
from ddn_core.training.loop import Training


class RunFolder:
    """Writer of a run folder."""

    def __init__(self, path: Path, resolved: dict[str, Any]) -> None:
        """Use the folder of a run with a resolved config."""
        self.path = path
        self._resolved = resolved
        self._checkpoints = CheckpointFolder(path)
        self._written = time.monotonic()
        self._metrics: io.FileIO | None = None

    @classmethod
    def begin(cls, path: Path, resolved: dict[str, Any]) -> RunFolder:
        """Create the folder, and write the resolved config into it.

        Raises:
            ArgumentError: The path is not an empty folder, or it cannot be written.
        """
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            advice = "Name a new folder, so that no run is overwritten"
            if (path / CONFIG).exists() and not (path / CHECKPOINT).exists():
                advice += f", or resume the run in it with `ddn train --resume {path}`"
            raise ArgumentError(f"The output folder {path} is not empty. {advice}.")
        if find_spec("matplotlib") is None:
            raise ArgumentError("A run folder has a picture, which needs matplotlib: pip install 'ddn-core[train]'.")
        try:
            path.mkdir(parents=True, exist_ok=True)
            write_atomically(path / CONFIG, (json.dumps(resolved, indent=2) + "\n").encode())
        except OSError as error:
            raise ArgumentError(f"The output folder {path} cannot be written: {error.strerror}.") from error
        return cls(path, resolved)

    def give_up(self) -> None:
        """Close the folder, and remove it if the run failed before its first step."""
        self.close()
        if not (self.path / METRICS).exists():
            (self.path / CONFIG).unlink(missing_ok=True)
            shutil.rmtree(self.path / TRACE, ignore_errors=True)
            self.path.rmdir()

    def resume(self, training: Training) -> list[str]:
        """Restore the newest checkpoint that can be used, and return remarks for the user.

        Later metrics are dropped, because the run will repeat them. The remarks name checkpoints that cannot be used,
        and packages whose versions changed.

        Raises:
            ArgumentError: The run is finished, no checkpoint can be used, or the files belong to another run.
        """
        if (self.path / CHECKPOINT).exists():
            end = read_events(self.path / METRICS)[2]
            how = "is finished" if end is None else f"is finished: it {end}"
            raise ArgumentError(f"The run in {self.path} {how}. There is nothing to resume.")
        state, remarks = self._checkpoints.newest()
        if state is None and remarks:
            reasons = "\n  ".join(remarks)
            raise ArgumentError(
                f"The run in {self.path} cannot be resumed, because no checkpoint can be used:\n  {reasons}"
            )
        if state is not None:
            if _without_provenance(state["config"]) != _without_provenance(self._resolved):
                raise ArgumentError(
                    f"The run in {self.path} cannot be resumed, because its newest checkpoint has another config than "
                    f"{CONFIG}. Restore the config that the run began with."
                )
            training.load_state_dict(state)
            remarks += _differences(state["config"], self._resolved)
        self._cut_metrics(0 if state is None else int(state["metrics_bytes"]))
        steps, evaluations, _ = read_events(self.path / METRICS)
        training.history.steps = steps
        training.history.epochs = [event for event in evaluations if event.ends_epoch]
        return remarks

    def record(self, event: StepEvent | EvaluationEvent | EndEvent) -> None:
        """Append an event to the metrics as a line of JSON, unbuffered, so that it survives a kill."""
        name = "step" if isinstance(event, StepEvent) else "end" if isinstance(event, EndEvent) else "evaluation"
        if isinstance(event, EvaluationEvent) and event.ends_epoch:
            name = "epoch"
        line = json.dumps({"event": name, **_finite(vars(event))}, allow_nan=False) + "\n"
        if self._metrics is None:
            self._metrics = (self.path / METRICS).open("ab", buffering=0)
        self._metrics.write(line.encode())

    def close(self) -> None:
        """Close the file of metrics."""
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None

    def checkpoint(self, training: Training, seconds: float) -> None:
        """Write a checkpoint, if the last one is older than this number of seconds."""
        if time.monotonic() - self._written >= seconds:
            self._checkpoints.write(training.step_count, self._state(training))
            self._written = time.monotonic()

    def finish(self, training: Training) -> None:
        """Write the end, the picture, and then the final checkpoint, which marks the run as finished."""
        if training.end is not None:
            self.record(training.end)
        self.close()
        run_picture(training.history).savefig(self.path / PICTURE, dpi=120)
        save_checkpoint(self.path / CHECKPOINT, self._state(training))
        self._checkpoints.remove()

    def _state(self, training: Training) -> dict[str, Any]:
        metrics = self.path / METRICS
        return {
            **training.state_dict(self._resolved),
            "metrics_bytes": metrics.stat().st_size if metrics.exists() else 0,
        }

    def _cut_metrics(self, size: int) -> None:
        path = self.path / METRICS
        there = path.stat().st_size if path.exists() else 0
        if there < size:
            raise ArgumentError(
                f"The run cannot be resumed, because {path} was changed: it has {there} bytes, and had {size} when the "
                "newest checkpoint was written."
            )
        if there > size:
            with path.open("r+b") as file:
                file.truncate(size)


def _without_provenance(resolved: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in resolved.items() if key != "provenance"}


def _differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return a remark if versions of packages changed, because the numbers may then differ."""
    before, after = saved.get("provenance", {}), now.get("provenance", {})
    changed = [
        f"{name} {before.get(name)} is now {after.get(name)}" for name in after if before.get(name) != after.get(name)
    ]
    return [f"the run began with other versions: {'; '.join(changed)}"] if changed else []


def _finite(value: Any) -> Any:
    """Return plain data with null in place of NaN and infinities, which JSON lacks."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value

"""The run folder: resolved config, metrics, checkpoints and picture of a run, and resuming from them."""

from __future__ import annotations

import io
import json
import os
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ddn_core.config import parse_config
from ddn_core.config.provenance import config_table
from ddn_core.errors import ArgumentError, DdnError
from ddn_core.files import remove_partial_files, write_atomically, writing
from ddn_core.locks import FolderLock, is_unused
from ddn_core.plots import run_picture
from ddn_core.plugins.registry import Registry
from ddn_core.runs.checkpoints import CheckpointFolder, save_checkpoint
from ddn_core.runs.events import EndEvent, EvaluationEvent, History, StepEvent
from ddn_core.runs.record import CHECKPOINT, CONFIG, METRICS, PICTURE, TRACE, RunRecord, read_events
from ddn_core.training.loop import Training
from ddn_core.training.metrics import MetricsFile


class RunFolder:
    """Writer of a run folder, which keeps other processes out of it until it is closed."""

    def __init__(self, path: Path, resolved: dict[str, Any]) -> None:
        """Use the folder of a run with a resolved config."""
        self.path = path
        self._resolved = resolved
        self._checkpoints = CheckpointFolder(path)
        self._metrics = MetricsFile(path / METRICS)
        self._written = time.monotonic()
        self._lock: FolderLock | None = None
        self._has_created_folder = self._has_created_config = False

    @classmethod
    def begin(cls, path: Path, resolved: dict[str, Any]) -> RunFolder:
        """Create the folder, and write the resolved config into it.

        Raises:
            ArgumentError: The path is not an empty folder, it cannot be written, or another process writes to it.
        """
        _check_installed()
        folder = cls(path, resolved)
        try:
            with writing(path):
                _check_new(path)
                folder._create()
                folder._hold(" or name a new folder")
                _check_new(path)  # again: from here on no other process can begin a run in it
            folder._has_created_config = True
            write_atomically(path / CONFIG, (json.dumps(resolved, indent=2) + "\n").encode())
        except BaseException:
            folder.give_up()
            raise
        remove_partial_files(path)
        return folder

    def give_up(self) -> None:
        """Close the folder. If the run failed before its first step, remove what this process created."""
        nothing = self._has_created_config and not os.path.lexists(self.path / METRICS)
        if nothing:
            with suppress(OSError):
                (self.path / CONFIG).unlink(missing_ok=True)
            shutil.rmtree(self.path / TRACE, ignore_errors=True)
        self.close()
        if self._has_created_folder and (nothing or not self._has_created_config):
            with suppress(OSError):  # the folder has files of the user's code
                self.path.rmdir()

    def resume(self, training: Training, registry: Registry | None = None) -> list[str]:
        """Restore the newest checkpoint that can be used, and return remarks for the user.

        Later metrics are dropped, because the run will repeat them. The remarks name checkpoints that cannot be used,
        packages whose versions changed, and a line of the metrics that was cut off.

        Args:
            training: The training that continues.
            registry: The plugins that its config may use; all installed ones by default.

        Raises:
            ArgumentError: The run is finished, no checkpoint can be used, the files belong to another run, or another
                process writes to the folder.
        """
        _check_installed()
        try:
            with writing(self.path):
                self._hold("")
            remove_partial_files(self.path)
            return self._restore(training, registry)
        except BaseException:
            self.close()
            raise

    def _restore(self, training: Training, registry: Registry | None) -> list[str]:
        if (self.path / CHECKPOINT).exists():
            end = read_events(self.path / METRICS)[2]
            how = "is finished" if end is None else f"is finished: it {end}"
            if not (self.path / PICTURE).exists():  # a kill came between the final checkpoint and the picture
                record = RunRecord.read(self.path)
                self._draw(History(list(record.steps), list(record.epochs), dict(record.spectra)))
            self._checkpoints.remove()
            raise ArgumentError(f"The run in {self.path} {how}. There is nothing to resume.")
        state, remarks = self._checkpoints.newest()
        if state is None and remarks:
            reasons = "\n  ".join(remarks)
            raise ArgumentError(
                f"The run in {self.path} cannot be resumed, because no checkpoint can be used:\n  {reasons}"
            )
        if state is not None:
            path = self._checkpoints.paths()[len(remarks)]
            if not _is_config(state["config"], self._resolved, registry):
                raise ArgumentError(
                    f"The run in {self.path} cannot be resumed, because {path} has another config than {CONFIG}. "
                    "Restore the config that the run began with."
                )
            try:
                training.load_state_dict(state)
            except DdnError as error:
                raise ArgumentError(f"The run cannot be resumed from {path}: {error}") from error
            remarks += _differences(state["config"], self._resolved)
        remarks += self._metrics.cut(0 if state is None else state["metrics_bytes"])
        steps, evaluations, _ = read_events(self.path / METRICS)
        training.history.steps = steps
        training.history.epochs = [event for event in evaluations if event.ends_epoch]
        return remarks

    def record(self, event: StepEvent | EvaluationEvent | EndEvent) -> None:
        """Append an event to the metrics.

        Raises:
            ArgumentError: It cannot be written.
        """
        self._metrics.append(event)

    def close(self) -> None:
        """Close the files, and let other processes write to the folder."""
        with suppress(ArgumentError):  # all that matters is on disk: errors before this one are the ones to report
            self._metrics.close()
        if self._lock is not None:
            self._lock.release(remove=True)
            self._lock = None

    def checkpoint(self, training: Training, seconds: float) -> None:
        """Write a checkpoint, if the last one is older than this number of seconds."""
        if time.monotonic() - self._written >= seconds:
            self._checkpoints.write(training.step_count, self._state(training))
            self._written = time.monotonic()

    def finish(self, training: Training) -> list[str]:
        """Write the end, the final checkpoint, which marks the run as finished, and the picture; return remarks.

        A picture that cannot be drawn is a remark, since nothing of the run is lost.

        Raises:
            ArgumentError: The end or the final checkpoint cannot be written.
        """
        if training.end is not None:
            self.record(training.end)
        save_checkpoint(self.path / CHECKPOINT, self._state(training))
        remarks = self._draw(training.history)
        self._checkpoints.remove()
        return remarks

    def _draw(self, history: History) -> list[str]:
        content = io.BytesIO()
        try:
            run_picture(history).savefig(content, dpi=120, format="png")
            write_atomically(self.path / PICTURE, content.getvalue())
        except ArgumentError as error:
            return [f"the picture of the run is missing: {error}"]
        except Exception as error:  # matplotlib raises many types
            return [f"the picture of the run is missing: {type(error).__name__}: {error}"]
        return []

    def _state(self, training: Training) -> dict[str, Any]:
        return {**training.state_dict(self._resolved), "metrics_bytes": self._metrics.sync()}

    def _create(self) -> None:
        """Create the folder, if it does not exist."""
        try:
            self.path.mkdir(parents=True)
            self._has_created_folder = True
        except FileExistsError:
            if not self.path.is_dir():
                raise

    def _hold(self, advice: str) -> None:
        """Keep other processes out of the folder."""
        lock = FolderLock(self.path)
        lock.acquire(f"Another process is writing the run in {self.path}. Wait until it has ended{advice}.")
        self._lock = lock


def _check_installed() -> None:
    """Raise an error unless run folders can be written.

    Raises:
        ArgumentError: matplotlib or filelock is not installed.
    """
    for package, purpose in (("matplotlib", "a picture"), ("filelock", "a lock")):
        if find_spec(package) is None:
            raise ArgumentError(f"A run folder has {purpose}, which needs {package}: pip install 'ddn-core[train]'.")


def _check_new(path: Path) -> None:
    """Raise an error if a run cannot be begun in a folder.

    Raises:
        ArgumentError: The path is not that of an unused folder.
    """
    if is_unused(path, CONFIG):
        return
    advice = "Name a new folder, so that no run is overwritten"
    if (path / CONFIG).exists() and not (path / CHECKPOINT).exists():
        advice += f", or resume the run in it with `ddn train --resume {path}`"
    raise ArgumentError(f"The output folder {path} is not empty. {advice}.")


def _is_config(saved: Mapping[str, Any], now: Mapping[str, Any], registry: Registry | None) -> bool:
    """Return whether a saved config is the resolved config of now, apart from the provenance.

    Settings that the version which saved it did not have yet have their defaults.
    """
    try:
        table = config_table(parse_config(saved, CONFIG, registry))
    except DdnError:
        return False
    return table == {key: value for key, value in now.items() if key != "provenance"}


def _differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return a remark if versions of packages changed, because the numbers may then differ."""
    before, after = saved.get("provenance"), now.get("provenance", {})
    if not isinstance(before, Mapping):
        return []
    changed = [
        f"{name} {before.get(name)} is now {after.get(name)}" for name in after if before.get(name) != after.get(name)
    ]
    return [f"the run began with other versions: {'; '.join(changed)}"] if changed else []

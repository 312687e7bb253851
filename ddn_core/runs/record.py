"""A run folder, read back. Its run may be finished, still in progress, or cut off."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ddn_core.errors import ArgumentError
from ddn_core.runs.events import EndEvent, EvaluationEvent, StepEvent

if TYPE_CHECKING:
    from torch import Tensor

CONFIG = "config.resolved.json"
METRICS = "metrics.jsonl"
CHECKPOINT = "checkpoint.pt"
PICTURE = "run.png"
TRACE = "trace"
LOSSES = ("loss", "train_loss", "test_loss")
"""Fields of events that are null in the metrics if they were not finite."""

E = TypeVar("E", StepEvent, EvaluationEvent, EndEvent)


@dataclass(frozen=True, eq=False)
class RunRecord:
    """The record of a run.

    Attributes:
        path: Its folder.
        name: Name of the run in tables and plots; by default the name of the folder.
        config: The resolved config; `provenance` holds the versions of all packages.
        steps: Its steps.
        evaluations: Its evaluations, in order; those that end an epoch have `ends_epoch`.
        end: Its end, if a rule stopped the run before its last epoch, or if it diverged.
    """

    path: Path
    name: str
    config: Mapping[str, Any]
    steps: tuple[StepEvent, ...]
    evaluations: tuple[EvaluationEvent, ...]
    end: EndEvent | None = None

    @classmethod
    def read(cls, path: Path | str, name: str | None = None) -> RunRecord:
        """Read a run folder.

        Args:
            path: The folder.
            name: Name of the run in tables and plots.

        Raises:
            ArgumentError: The folder is no run folder, or its files cannot be read.
        """
        folder = Path(path)
        try:
            config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ArgumentError(f"{folder} is no run folder: it has no {CONFIG}. Make one with ddn train.") from error
        except (OSError, ValueError) as error:
            raise ArgumentError(f"{folder / CONFIG}: cannot be read: {error}") from error
        steps, evaluations, end = read_events(folder / METRICS)
        return cls(folder, name or folder.resolve().name, config, tuple(steps), tuple(evaluations), end)

    @property
    def finished(self) -> bool:
        """True if there is nothing left to train: the run came to its end, a rule stopped it, or it diverged."""
        return (self.path / CHECKPOINT).is_file()

    @property
    def diverged_at(self) -> int | None:
        """Number of the step at which the run diverged; `None` if it did not."""
        return None if self.end is None else self.end.diverged_at

    @property
    def epochs(self) -> tuple[EvaluationEvent, ...]:
        """The evaluations that end an epoch."""
        return tuple(event for event in self.evaluations if event.ends_epoch)

    def _repr_html_(self) -> str:
        """Return learning curves and spectra, for a notebook."""
        from ddn_core.plots import learning_curves, spectrum_over_time
        from ddn_core.plots.notebook import picture

        panels = [lambda ax: learning_curves(self, "train_loss", ax=ax), lambda ax: learning_curves(self, ax=ax)]
        if self.spectra:
            panels.append(lambda ax: spectrum_over_time(self, ax=ax))
        state = "finished" if self.finished else "not finished"
        shown = (
            f"{escape(self.name)}: {len(self.steps)} steps, {len(self.epochs)} epochs, {escape(str(self.end or state))}"
        )
        return f"<p>{shown}</p>" + picture(panels, "training loss, test loss and spectra of the run")

    @property
    def trace(self) -> Path | None:
        """The folder of the recorded curvature, if there is one."""
        folder = self.path / TRACE
        return folder if folder.is_dir() else None

    @cached_property
    def spectra(self) -> Mapping[int, list[Tensor]]:
        """The ascending eigenvalues of each group by step, for the first step and for the last step of each epoch.

        Runs of torch's own optimizers, and runs without a checkpoint, have none.
        """
        from ddn_core.runs.checkpoints import CheckpointFolder, load_checkpoint

        try:
            final = self.path / CHECKPOINT
            state = load_checkpoint(final) if final.is_file() else CheckpointFolder(self.path).newest()[0]
        except ArgumentError:
            return {}
        return {} if state is None else dict(state.get("spectra", {}))


def stored_config(run: Path) -> Path:
    """Return the path of the resolved config in a run folder.

    Raises:
        ArgumentError: The folder holds no run.
    """
    if not (run / CONFIG).is_file():
        reason = "the folder does not exist" if not run.exists() else f"{CONFIG} is missing"
        raise ArgumentError(f"There is no run in {run}: {reason}. Start one with `ddn train CONFIG --out {run}`.")
    return run / CONFIG


def read_events(path: Path) -> tuple[list[StepEvent], list[EvaluationEvent], EndEvent | None]:
    """Return the steps, the evaluations and the end in a file of metrics, without a last line that was cut off.

    Raises:
        ArgumentError: A line before the last one is no event of a run.
    """
    steps: list[StepEvent] = []
    evaluations: list[EvaluationEvent] = []
    end: EndEvent | None = None
    lines = path.read_bytes().splitlines() if path.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            table = json.loads(line)
            if table["event"] == "step":
                steps.append(_event(StepEvent, {**table, "lr": tuple(table["lr"])}))
            elif table["event"] == "end":
                end = _event(EndEvent, {**table, "advice": tuple(table["advice"])})
            else:
                evaluations.append(_event(EvaluationEvent, table))
        except (ValueError, TypeError, KeyError) as error:
            if number == len(lines):
                break
            raise ArgumentError(f"{path}, line {number}: this line is no event of a run: {error}") from error
    return steps, evaluations, end


def _event(kind: type[E], table: Mapping[str, Any]) -> E:
    """Return the event of a line. Unknown fields are ignored, and a loss that is null becomes NaN."""
    names = {entry.name for entry in fields(kind)}
    known: dict[str, Any] = {name: value for name, value in table.items() if name in names}
    known.update({name: math.nan for name in LOSSES if name in known and known[name] is None})
    return kind(**known)

"""A run folder, read back. Its run may be finished, still in progress, or cut off."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, Discriminator, Tag, TypeAdapter
from pydantic_core import from_json

from ddn_core.errors import ArgumentError
from ddn_core.foreign import Integer, check_no_links, content_of, parsed
from ddn_core.runs.events import EndEvent, EvaluationEvent, StepEvent

if TYPE_CHECKING:
    from torch import Tensor

CONFIG = "config.resolved.json"
METRICS = "metrics.jsonl"
CHECKPOINT = "checkpoint.pt"
PICTURE = "run.png"
TRACE = "trace"


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
            ArgumentError: The folder is not a run folder, or its files cannot be read.
        """
        folder = Path(path)
        try:
            text = content_of(folder / CONFIG)
        except FileNotFoundError as error:
            raise ArgumentError(
                f"{folder} is not a run folder: {CONFIG} is missing. Make one with ddn train."
            ) from error
        parsed(_CONFIG, text, folder / CONFIG, "a config of a run")
        config = from_json(text)
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

        Raises:
            ArgumentError: The final checkpoint is damaged.
        """
        from ddn_core.runs.checkpoints import CheckpointFolder, load_checkpoint

        final = self.path / CHECKPOINT
        state = load_checkpoint(final) if final.is_file() else CheckpointFolder(self.path).newest()[0]
        return {} if state is None else dict(state.get("spectra", {}))


def stored_config(run: Path) -> Path:
    """Return the path of the resolved config of a run that is to continue in its folder.

    Raises:
        ArgumentError: The folder holds no run, or a symbolic link that would have ddn write elsewhere.
    """
    if not (run / CONFIG).is_file():
        reason = "the folder does not exist" if not run.exists() else f"{CONFIG} is missing"
        raise ArgumentError(f"There is no run in {run}: {reason}. Start one with `ddn train CONFIG --out {run}`.")
    check_no_links(run)
    return run / CONFIG


def read_events(path: Path) -> tuple[list[StepEvent], list[EvaluationEvent], EndEvent | None]:
    """Return the steps, the evaluations and the end in a file of metrics, without a last line that was cut off.

    Raises:
        ArgumentError: A line is not an event of a run, or the file cannot be read.
    """
    steps: list[StepEvent] = []
    evaluations: list[EvaluationEvent] = []
    end: EndEvent | None = None
    try:
        lines = content_of(path).split(b"\n")
    except FileNotFoundError:
        lines = []
    for number, line in enumerate(lines, start=1):
        if number == len(lines) and not _is_json(line):
            break  # the process was killed while it wrote this line, or the line before is whole
        event = parsed(_EVENT, line, f"{path}, line {number}", "an event of a run")
        if isinstance(event, StepEvent):
            steps.append(event)
        elif isinstance(event, EndEvent):
            end = event
        else:
            evaluations.append(event)
    return steps, evaluations, end


def _name_of(line: Any) -> Any:
    return line.get("event") if isinstance(line, dict) else None


_EVENT: TypeAdapter[StepEvent | EvaluationEvent | EndEvent] = TypeAdapter(
    Annotated[
        Annotated[StepEvent, Tag("step")]
        | Annotated[EvaluationEvent, Tag("evaluation")]
        | Annotated[EvaluationEvent, Tag("epoch")]
        | Annotated[EndEvent, Tag("end")],
        Discriminator(
            _name_of,
            custom_error_type="no_event",
            custom_error_message="Input should be a table whose `event` is step, evaluation, epoch or end",
        ),
    ]
)
"""Schema of a line of metrics. Unknown fields are ignored, so that metrics of later versions can be read."""


class _StoredTraining(BaseModel):
    seed: Integer = 0


class _StoredKind(BaseModel):
    kind: str = "?"


class _StoredPlugin(BaseModel):
    name: str | None = None
    distribution: str | None = None
    version: str | None = None


class _StoredProvenance(BaseModel):
    plugins: list[_StoredPlugin] = []


class _StoredConfig(BaseModel):
    """The parts of a resolved config that reports use; the others may be of plugins that are not installed."""

    training: _StoredTraining = _StoredTraining()
    problem: _StoredKind | None = None
    provenance: _StoredProvenance | None = None


_CONFIG = TypeAdapter(_StoredConfig)


def _is_json(line: bytes) -> bool:
    try:
        from_json(line)
    except ValueError:
        return False
    return True

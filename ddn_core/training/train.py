"""Training from a config in one call: set up, open the run folder, train, finish."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.nn import Module

from ddn_core.config import Config, load_config, parse_config
from ddn_core.config.overrides import apply_overrides
from ddn_core.config.provenance import config_table, resolved_config
from ddn_core.errors import ArgumentError, ConfigError
from ddn_core.plugins.registry import Registry
from ddn_core.runs.events import EndEvent, EvaluationEvent, History, StepEvent
from ddn_core.runs.record import TRACE, stored_config
from ddn_core.traces import Recorder
from ddn_core.training.loop import Training
from ddn_core.training.run_folder import RunFolder

Event = StepEvent | EvaluationEvent


@dataclass(frozen=True)
class RunStart:
    """State of a run when its first step is about to be made.

    Attributes:
        step: Number of steps that were made before; 0 for a new run.
        total_steps: Number of steps of the whole run; `None` if the problem does not know its number of batches.
        notes: Remarks on a resumed run, such as checkpoints that cannot be used; a sentence each.
    """

    step: int
    total_steps: int | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class TrainingResult:
    """Result of a run.

    Attributes:
        config: The config that was trained, with all overrides.
        model: The trained model.
        history: Every step, the evaluation at the end of each epoch, and spectra.
        finished: Whether the run came to its end, by itself or by a rule; `False` if `should_stop` ended it.
        folder: The run folder, which `ddn_core.runs.RunRecord.read` reads; `None` if there is none.
        recorder: The recorder of the curvature; `None` if no curvature was recorded.
        end: The end of the run, if a rule stopped it before its last epoch, or if it diverged.
        notes: Remarks on the run folder, such as a picture that could not be drawn.
    """

    config: Config
    model: Module
    history: History
    finished: bool
    folder: Path | None = None
    recorder: Recorder | None = None
    end: EndEvent | None = None
    notes: tuple[str, ...] = ()

    @property
    def metrics(self) -> dict[str, float]:
        """Losses and test metrics at the end of the last epoch, by name; empty if no epoch has ended."""
        if not self.history.epochs:
            return {}
        last = self.history.epochs[-1]
        return {"train_loss": last.train_loss, "test_loss": last.test_loss, **last.test_metrics}


def train(
    config: Config | Mapping[str, Any] | Path | str | None = None,
    out: Path | str | None = None,
    *,
    overrides: Sequence[str] = (),
    resume: Path | str | None = None,
    record: bool = False,
    on_start: Callable[[RunStart], object] | None = None,
    on_event: Callable[[Event], object] | None = None,
    should_stop: Callable[[], bool] | None = None,
    source: str | None = None,
    registry: Registry | None = None,
) -> TrainingResult:
    """Train the problem of a config, as `ddn train` does.

    The same config makes the same run: torch's, Python's and NumPy's generators are seeded with `training.seed`.

    Example:
        >>> from ddn_core.training import train
        >>> group = {"params": ["*"], "criterion": {"kind": "top-k", "k": 10}, "damping": {"kind": "constant"}}
        >>> config = {"problem": {"kind": "digits-mlp", "hidden": [16]}, "groups": [group]}
        >>> result = train(config, overrides=["training.epochs=1"])
        >>> sorted(result.metrics)
        ['accuracy', 'test_loss', 'train_loss']

    Args:
        config: The config: the path of a `.toml` or `.json` file, the table that such a file holds, or a `Config`.
        out: Run folder to write: a new or an empty folder. Without it, nothing is written.
        overrides: Assignments `path=value` as of `--set`, such as `groups.0.damping.value=1e-3`, applied in order.
        resume: Folder of a run that was stopped; its config is used, and the run continues in the same folder.
        record: Record the curvature of some steps in the run folder; the table `record` of the config says which.
        on_start: Called once, before the first step.
        on_event: Called after each step with a `StepEvent`, and after each evaluation with an `EvaluationEvent`.
        should_stop: Called after each event from which a run can be resumed. If it returns `True`, a checkpoint is
            written, if there is a run folder, and the run stops.
        source: Name of the config in error messages; by default, the name of its file.
        registry: The plugins that the config may use; all installed ones by default.

    Returns:
        Model, metrics and history of the run.

    Raises:
        ArgumentError: The arguments contradict each other, or the run folder cannot be written or resumed.
        ConfigError: The config is wrong, or has no problem.
        DdnError: The problem failed to load, or a step failed.
    """
    if (config is None) == (resume is None):
        raise ArgumentError("Pass either a config or, with `resume`, the folder of a run.")
    if resume is not None and (out is not None or overrides or record):
        raise ArgumentError(
            "A resumed run keeps its folder, its config and its recording. Leave `out`, `overrides` and `record` out."
        )
    if resume is not None:
        config, out = stored_config(Path(resume)), resume
    assert config is not None
    source = source or (Path(config).name if isinstance(config, Path | str) else "config")
    loaded = _loaded(config, overrides, source, registry)
    if record and loaded.record is None:
        loaded = _loaded(config, [*overrides, "record={}"], source, registry)
    if loaded.record is not None and out is None:
        raise ArgumentError(f"{source}: recorded curvature (`record`) needs a run folder. Pass `out`.")

    resolved = None if out is None else _resolved(loaded, source, registry)
    training = Training.of(loaded, source)
    folder, notes = None, []
    if out is not None and resolved is not None:
        folder = RunFolder(Path(out), resolved) if resume is not None else RunFolder.begin(Path(out), resolved)
        notes = folder.resume(training, registry) if resume is not None else []
    try:
        if folder is not None and loaded.record is not None:
            training.recorder = Recorder(folder.path / TRACE, loaded.record)
            training.recorder.resume(training.step_count)
        if on_start is not None:
            on_start(RunStart(training.step_count, training.total_steps, tuple(notes)))
        finished = _run(training, folder, loaded.training.checkpoint_seconds, on_event, should_stop)
        notes = folder.finish(training) if finished and folder is not None else []
    except Exception:
        if folder is not None:
            folder.give_up()
        raise
    finally:
        if folder is not None:
            folder.close()
    return TrainingResult(
        config=loaded,
        model=training.model,
        history=training.history,
        finished=finished,
        folder=None if folder is None else folder.path,
        recorder=training.recorder,
        end=training.end,
        notes=tuple(notes),
    )


def _run(
    training: Training,
    folder: RunFolder | None,
    checkpoint_seconds: float,
    on_event: Callable[[Event], object] | None,
    should_stop: Callable[[], bool] | None,
) -> bool:
    """Train to the end or until the caller stops the run, and return whether the training is finished."""
    for event in training.events():
        if folder is not None:
            folder.record(event)
        if on_event is not None:
            on_event(event)
        if not training.is_resumable:
            continue
        stopped = should_stop is not None and should_stop()
        if folder is not None:
            folder.checkpoint(training, 0.0 if stopped else checkpoint_seconds)
        if stopped:
            return False
    return True


def _loaded(
    config: Config | Mapping[str, Any] | Path | str, overrides: Sequence[str], source: str, registry: Registry | None
) -> Config:
    """Return a config with overrides."""
    if isinstance(config, Path | str):
        return load_config(config, overrides, registry)
    if isinstance(config, Config):
        if not overrides:
            return config
        config = config_table(config)
    return parse_config(apply_overrides(config, overrides) if overrides else config, source, registry)


def _resolved(config: Config, source: str, registry: Registry | None) -> dict[str, Any]:
    """Return the config as a run folder holds it.

    Raises:
        ArgumentError: The config cannot be loaded again, because a component is of no installed plugin.
    """
    try:
        parse_config(config_table(config), source, registry)
    except ConfigError as error:
        raise ArgumentError(
            f"A run folder holds a config that can be trained again, and this one cannot. Use the strategies and "
            f"problems of installed plugins, or leave `out` out.\n{error}"
        ) from error
    return resolved_config(config, registry)

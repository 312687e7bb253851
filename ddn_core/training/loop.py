"""The training loop, as a stream of events."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor
from torch.nn import Module

from ddn_core.config import Config
from ddn_core.errors import ArgumentError, DdnError, NonFiniteError, PluginError
from ddn_core.foreign import Count, Finite, mistake
from ddn_core.plugins.problem import Batches, ProblemParts
from ddn_core.runs.events import EndEvent, EvaluationEvent, History, StepEvent
from ddn_core.traces import Recorder
from ddn_core.training.ending import Ending, check_metric
from ddn_core.training.problem import checked_batches, load_problem, problem_label
from ddn_core.training.randomness import drawn_from, random_state, set_random_state, stream_of
from ddn_core.training.saved_state import check_saved_state
from ddn_core.training.stepping import Stepper, learning_rates, scheduler_of, stepper_of


@dataclass
class Progress:
    """Position of a run, which a checkpoint stores.

    Attributes:
        epoch: Number of the current epoch, from 1. After the run has ended, number of the last epoch.
        batches: Number of batches that the current epoch has trained on.
        step: Number of steps that the run has made.
        seconds: Seconds of training and evaluation, including those before the run was resumed.
        step_seconds: Seconds spent in steps.
        losses: Losses of the steps since the last evaluation.
        train_loss: Mean of `losses` at the last evaluation that had any. An epoch may end without a step since then.
        ended: Whether the evaluation at the end of the epoch has been made.
    """

    epoch: Count = 1
    batches: Count = 0
    step: Count = 0
    seconds: Finite = 0.0
    step_seconds: Finite = 0.0
    losses: list[float] = field(default_factory=list)
    train_loss: float = math.nan
    ended: bool = False


class Training:
    """The training loop of a problem and an optimizer.

    Attributes:
        history: Events and spectra up to now.
        is_resumable: Whether a run can be resumed from its current state: no evaluation is due before the next step,
            and no rule has ended the run.
        recorder: Recorder of the curvature; `None` if no step is recorded.
    """

    recorder: Recorder | None = None

    def __init__(
        self, config: Config, parts: ProblemParts, stepper: Stepper, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._config = config
        self._parts = parts
        self._stepper = stepper
        self._scheduler = scheduler_of(config, stepper.optimizer)
        self._progress = Progress()
        self._draws = stream_of(config.training.seed, "batches")
        self._loaders = SimpleNamespace(train=parts.train_batches, test=parts.test_batches, draws=self._draws)
        self._epoch_start = random_state(self._loaders)
        self._clock = clock
        self._begun = clock()
        self._ending = Ending(config, clock)
        self.history = History()
        self.is_resumable = True

    @classmethod
    def of(cls, config: Config, source: str) -> Training:
        """Return the training loop of a config, after loading its problem.

        Raises:
            ConfigError: The config has no problem, its device is not available, its groups do not fit the model, or the
                run has no such metric as a rule names.
            PluginError: The problem failed to load.
        """
        parts = load_problem(config, source)
        check_metric(config, parts, source)
        return cls(config, parts, stepper_of(config, parts, source))

    @property
    def model(self) -> Module:
        """The model of the problem."""
        return self._parts.model

    @property
    def total_steps(self) -> int | None:
        """Number of steps of the whole run; `None` if the problem does not know its number of batches."""
        batches = self._batches_per_epoch
        return None if batches is None else self._config.training.epochs * batches

    @property
    def _batches_per_epoch(self) -> int | None:
        try:
            return len(self._parts.train_batches)  # type: ignore[arg-type]
        except TypeError:
            return None

    @property
    def end(self) -> EndEvent | None:
        """End of the run, if a rule stopped it or if it diverged."""
        return self._ending.end

    @property
    def step_count(self) -> int:
        """Number of steps that the run has made, including those before it was resumed."""
        return self._progress.step

    def events(self) -> Iterator[StepEvent | EvaluationEvent]:
        """Train from the current position, and yield an event after each step and each evaluation.

        A run that a rule stops has a last evaluation, which ends its epoch; a run that diverges does not.
        """
        self._begun = self._clock() - self._progress.seconds
        progress, settings = self._progress, self._config.training
        while not (progress.ended and progress.epoch >= settings.epochs):
            if progress.ended:
                progress.epoch, progress.batches, progress.ended = progress.epoch + 1, 0, False
            for inputs, targets in self._rest_of_epoch():
                try:
                    event = self._step(inputs, targets)
                except NonFiniteError as error:
                    if not progress.step:
                        raise  # nothing has been trained: data or model are at fault
                    self._ending.see_error(error, self.history.steps)
                    return
                due = settings.evaluate_every is not None and progress.step % settings.evaluate_every == 0
                whole = progress.batches == self._batches_per_epoch
                self.is_resumable = not due and not whole and self.end is None
                yield event
                if due and self.end is None:
                    evaluation = self._evaluation(ends_epoch=False)
                    self.is_resumable = not whole and self.end is None
                    yield evaluation
                if self.end is not None:
                    break
            if self.end is not None and self.end.diverged_at is not None:
                return
            if not progress.batches:
                raise PluginError(f"{problem_label(self._config)} has no training batch in epoch {progress.epoch}.")
            self._note_spectra()
            if self._scheduler is not None and settings.scheduler is not None and settings.scheduler.every == "epoch":
                self._scheduler.step()
            progress.ended = True
            evaluation = self._evaluation(ends_epoch=True)
            self.is_resumable = self.end is None
            yield evaluation
            if self.end is not None:
                return

    def state_dict(self, resolved: dict[str, Any]) -> dict[str, Any]:
        """Return the state from which the run can be resumed, with the resolved config, as plain data."""
        self._progress.seconds = self._clock() - self._begun
        return {
            **self._loadable(),
            "config": resolved,
            "step": self._progress.step,
            "progress": asdict(self._progress),
            "spectra": self.history.spectra,
            "random": {"epoch": self._epoch_start, "now": random_state(self._loaders)},
        }

    def _loadable(self) -> dict[str, Any]:
        """Return the states of model, optimizer, scheduler and stop rules."""
        return {
            "model": self._parts.model.state_dict(),
            "optimizer": self._stepper.optimizer.state_dict(),
            "scheduler": None if self._scheduler is None else self._scheduler.state_dict(),
            "ending": self._ending.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state of `state_dict`. The batches that the epoch has trained on will be drawn again and skipped.

        Raises:
            ArgumentError: The state belongs to another model or optimizer.
        """
        try:
            check_saved_state(state, self._loadable(), self._stepper.optimizer)
            self._parts.model.load_state_dict(state["model"])
            self._stepper.optimizer.load_state_dict(state["optimizer"])
            if self._scheduler is not None:
                self._scheduler.load_state_dict(state["scheduler"])
            self._progress = TypeAdapter(Progress).validate_python(state["progress"])
            if "ending" in state:  # checkpoints of earlier versions lack it
                self._ending.load_state_dict(state["ending"])
            self.history.spectra = dict(state["spectra"])
            self._epoch_start, now = state["random"]["epoch"], state["random"]["now"]
            for one in (self._epoch_start, now):  # both, since an error in either has to come here
                set_random_state(one, self._loaders)
            if self._progress.batches and not self._progress.ended:
                self._loaded_state = now
        except DdnError:
            raise
        except ValidationError as error:
            raise ArgumentError(
                f"The checkpoint belongs to another model or optimizer, or is damaged: progress.{mistake(error)}."
            ) from error
        except Exception as error:  # torch raises many types for a state that does not fit
            reason = f"{type(error).__name__}: {error}"
            raise ArgumentError(f"The checkpoint belongs to another model or optimizer: {reason}") from error

    _loaded_state: dict[str, Any] | None = None
    """Random state of a loaded checkpoint, until the batches that it has trained on are skipped."""

    def _rest_of_epoch(self) -> Batches:
        """Yield the batches that the epoch has not trained on, and restore the random state of a loaded checkpoint."""
        batches = self._parts.train_batches
        if self._loaded_state is not None:
            set_random_state(self._epoch_start, self._loaders)
        else:
            self._epoch_start = random_state(self._loaders)
        skipped = self._progress.batches
        self._parts.model.train()
        for number, batch in enumerate(drawn_from(self._draws, checked_batches(batches, self._config))):
            if number < skipped:
                if number + 1 == skipped:
                    self._restore_random_state()  # before the next batch is drawn, which may need random numbers
                continue
            yield self._cast(batch[0]), self._cast(batch[1])
        self._restore_random_state()

    def _restore_random_state(self) -> None:
        """Restore the random state of a loaded checkpoint, once."""
        if self._loaded_state is not None:
            set_random_state(self._loaded_state, self._loaders)
            self._loaded_state = None

    def _step(self, inputs: Tensor, targets: Tensor) -> StepEvent:
        progress, begun = self._progress, self._clock()
        lr = tuple(learning_rates(self._stepper.optimizer))
        last = None if self.total_steps is None else self.total_steps - 1
        due = self.recorder is not None and self.recorder.is_due(progress.step, last)
        record = partial(self.recorder.record, epoch=progress.epoch, last=last) if due and self.recorder else None
        figures = self._stepper.step(inputs, targets, record)
        seconds = self._clock() - begun
        if due and self.recorder is not None:
            self.recorder.note_loss_after(progress.step, figures.loss_after)
        event = StepEvent(**vars(figures), step=progress.step, epoch=progress.epoch, lr=lr, seconds=seconds)
        if progress.step == 0:
            self._note_spectra(0)
        progress.step += 1
        progress.batches += 1
        progress.step_seconds += seconds
        progress.losses.append(figures.loss)
        scheduler = self._config.training.scheduler
        if self._scheduler is not None and scheduler is not None and scheduler.every == "step":
            self._scheduler.step()
        self.history.steps.append(event)
        self._ending.see_step(self.history.steps)
        return event

    def _evaluation(self, ends_epoch: bool) -> EvaluationEvent:
        progress = self._progress
        try:
            test_loss, metrics = self._evaluated(self._parts.test_batches, with_metrics=True)
            whole = None
            if self._config.training.evaluate_training:
                kept = random_state(self._loaders)
                whole = self._evaluated(self._parts.train_batches, with_metrics=False)[0]
                set_random_state(kept, self._loaders)
        except DdnError:
            raise
        except Exception as error:
            raise PluginError(
                f"{problem_label(self._config)} failed in evaluation: {type(error).__name__}: {error}"
            ) from error
        if losses := progress.losses:
            progress.train_loss = math.fsum(losses) / len(losses)
        event = EvaluationEvent(
            epoch=progress.epoch,
            step=progress.step,
            train_loss=progress.train_loss,
            test_loss=test_loss,
            test_metrics=metrics,
            whole_train_loss=whole,
            seconds=self._clock() - self._begun,
            step_seconds=progress.step_seconds,
            ends_epoch=ends_epoch,
        )
        progress.losses = []
        if ends_epoch:
            self.history.epochs.append(event)
        self._ending.see_evaluation(event, self.history.steps, self._parts.model)
        if ends_epoch and (progress.epoch >= self._config.training.epochs or self.end is not None):
            self._ending.see_last(event, self.history.steps, self._parts.model)
        return event

    @torch.no_grad()
    def _evaluated(self, batches: Batches, with_metrics: bool) -> tuple[float, dict[str, float]]:
        """Return loss and metrics of data, with the model in evaluation mode."""
        model, loss_function = self._parts.model, self._parts.loss_function
        was_training = model.training
        model.eval()
        total, samples = 0.0, 0
        metrics = self._parts.metrics if with_metrics else {}
        sums = dict.fromkeys(metrics, 0.0)
        for inputs, targets in checked_batches(batches, self._config):
            outputs, expected = model(self._cast(inputs)), self._cast(targets)
            loss = float(loss_function(outputs, expected))
            total += loss * len(inputs) if loss_function.reduction == "mean" else loss
            samples += len(inputs)
            for name, metric in metrics.items():
                sums[name] += float(metric(outputs, expected).sum())
        model.train(was_training)
        count = max(samples, 1)
        whole = total / (count if loss_function.reduction == "mean" else 1)
        return whole, {name: value / count for name, value in sums.items()}

    def _note_spectra(self, step: int | None = None) -> None:
        if spectra := self._stepper.spectra():
            self.history.spectra[self._progress.step - 1 if step is None else step] = spectra

    def _cast(self, tensor: Tensor) -> Tensor:
        dtype = getattr(torch, self._config.training.dtype) if tensor.is_floating_point() else tensor.dtype
        return tensor.to(device=self._config.training.device, dtype=dtype)

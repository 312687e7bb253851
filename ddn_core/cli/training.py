"""The training loop, as a stream of events that the run folder records and the display shows."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from backpack import extend
from torch import Tensor
from torch.nn import Module

from ddn_core.config import Config
from ddn_core.config.grouping import Assignment, assign_parameters
from ddn_core.config.load import config_error
from ddn_core.errors import ConfigError, DdnError, PluginError
from ddn_core.optim import DirectionalDampedNewton
from ddn_core.plugins.problem import Batches, ProblemParts


@dataclass(frozen=True)
class StepEvent:
    """One optimizer step; norms and ranges are over all groups, and ranges over the finite dampings."""

    step: int
    epoch: int
    loss: float
    step_norm: float
    directions: int
    damping_min: float | None
    damping_max: float | None
    predicted_decrease: float
    seconds: float


@dataclass(frozen=True)
class EpochEvent:
    """One pass over the training data and its evaluation."""

    epoch: int
    step: int
    train_loss: float
    test_loss: float
    test_metrics: dict[str, float]
    seconds: float


@dataclass
class History:
    """What a run leaves in memory for its picture and its summary.

    Attributes:
        steps: Every step.
        epochs: Every epoch.
        spectra: By step, the eigenvalues of each group, ascending: of the first step, and of the last of each epoch.
    """

    steps: list[StepEvent] = field(default_factory=list)
    epochs: list[EpochEvent] = field(default_factory=list)
    spectra: dict[int, list[Tensor]] = field(default_factory=dict)


class Training:
    """A problem, its optimizer, and the loop over both."""

    def __init__(self, config: Config, parts: ProblemParts, optimizer: DirectionalDampedNewton) -> None:
        self._config = config
        self._parts = parts
        self._optimizer = optimizer
        self._begun = time.perf_counter()
        self.history = History()

    @classmethod
    def of(cls, config: Config, source: str) -> Training:
        """Load the problem and set the optimizer up.

        Raises:
            ConfigError: The config has no problem, its device is not there, or its groups do not fit the model.
            PluginError: The problem failed to load.
        """
        parts = load_problem(config, source)
        if problems := model_assignment(config, parts.model)[1]:
            raise config_error(source, problems)
        try:
            model = extend(parts.model.to(device=config.training.device, dtype=getattr(torch, config.training.dtype)))
            optimizer = DirectionalDampedNewton(model.named_parameters(), groups=config)
        except (RuntimeError, AssertionError) as error:  # torch's, for a device that is not there
            raise ConfigError(f"{source}: training.device: {config.training.device!r}: {error}") from error
        extend(parts.loss_function)
        return cls(config, parts, optimizer)

    @property
    def total_steps(self) -> int | None:
        """Number of steps of the whole run, where the problem tells."""
        try:
            return self._config.training.epochs * len(self._parts.train_batches)  # type: ignore[arg-type]
        except TypeError:
            return None

    def events(self) -> Iterator[StepEvent | EpochEvent]:
        """Train, and yield an event after each step and each epoch."""
        self._begun = time.perf_counter()
        step = 0
        for epoch in range(1, self._config.training.epochs + 1):
            self._parts.model.train()
            losses = []
            for inputs, targets in self._batches(self._parts.train_batches):
                event = self._step(step, epoch, self._cast(inputs), self._cast(targets))
                losses.append(event.loss)
                self.history.steps.append(event)
                if step == 0:
                    self._note_spectra(step)
                step += 1
                yield event
            if not losses:
                raise PluginError(f"{self._label()} gave no training batch in epoch {epoch}.")
            self._note_spectra(step - 1)
            try:
                epoch_event = self._evaluate(epoch, step, math.fsum(losses) / len(losses))
            except DdnError:
                raise
            except Exception as error:
                raise PluginError(f"{self._label()} failed in evaluation: {type(error).__name__}: {error}") from error
            self.history.epochs.append(epoch_event)
            yield epoch_event

    def checkpoint(self, resolved: dict[str, Any]) -> dict[str, Any]:
        """Return the state of model and optimizer with the resolved config, as plain data."""
        return {
            "model": self._parts.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "config": resolved,
            "step": len(self.history.steps),
        }

    def _step(self, step: int, epoch: int, inputs: Tensor, targets: Tensor) -> StepEvent:
        begun = time.perf_counter()
        self._optimizer.zero_grad()
        with self._optimizer.curvature():
            loss = self._parts.loss_function(self._parts.model(inputs), targets)
            loss.backward()
        self._optimizer.step(lambda: self._parts.loss_function(self._parts.model(inputs), targets))
        reports = self._optimizer.last_step
        ranges = [limits for report in reports if (limits := report.damping_range()) is not None]
        return StepEvent(
            step=step,
            epoch=epoch,
            loss=loss.item(),
            step_norm=math.hypot(*(report.lr * float(report.step_norm) for report in reports)),
            directions=sum(report.directions for report in reports),
            damping_min=min((lowest for lowest, _ in ranges), default=None),
            damping_max=max((highest for _, highest in ranges), default=None),
            predicted_decrease=math.fsum(float(report.predicted_decrease) for report in reports),
            seconds=time.perf_counter() - begun,
        )

    @torch.no_grad()
    def _evaluate(self, epoch: int, step: int, train_loss: float) -> EpochEvent:
        self._parts.model.eval()
        loss_function = self._parts.loss_function
        total, samples = 0.0, 0
        sums = dict.fromkeys(self._parts.metrics, 0.0)
        for inputs, targets in self._batches(self._parts.test_batches):
            outputs, expected = self._parts.model(self._cast(inputs)), self._cast(targets)
            loss = float(loss_function(outputs, expected))
            total += loss * len(inputs) if loss_function.reduction == "mean" else loss
            samples += len(inputs)
            for name, metric in self._parts.metrics.items():
                sums[name] += float(metric(outputs, expected).sum())
        count = max(samples, 1)
        return EpochEvent(
            epoch=epoch,
            step=step,
            train_loss=train_loss,
            test_loss=total / (count if loss_function.reduction == "mean" else 1),
            test_metrics={name: value / count for name, value in sums.items()},
            seconds=time.perf_counter() - self._begun,
        )

    def _note_spectra(self, step: int) -> None:
        self.history.spectra[step] = [report.all_evals.cpu() for report in self._optimizer.last_step]

    def _cast(self, tensor: Tensor) -> Tensor:
        dtype = getattr(torch, self._config.training.dtype) if tensor.is_floating_point() else tensor.dtype
        return tensor.to(device=self._config.training.device, dtype=dtype)

    def _batches(self, batches: Batches) -> Batches:
        return checked_batches(batches, self._config)

    def _label(self) -> str:
        return problem_label(self._config)


def checked_batches(batches: Batches, config: Config) -> Batches:
    """Yield the batches of a config's problem, or raise if one is no pair of tensors.

    Raises:
        PluginError: A batch is something else.
    """
    for batch in batches:
        if not isinstance(batch, tuple | list) or [type(item) for item in batch] != [Tensor, Tensor]:
            raise PluginError(f"{problem_label(config)} gave a batch that is no pair of tensors (inputs, targets).")
        inputs, targets = batch
        yield inputs, targets


def problem_label(config: Config) -> str:
    """Return a config's problem, for messages."""
    return config.problem.label() if config.problem is not None else "the problem"


def load_problem(config: Config, source: str) -> ProblemParts:
    """Seed torch and load the config's problem.

    Raises:
        ConfigError: The config has no problem.
        PluginError: The problem failed to load.
    """
    if config.problem is None:
        raise ConfigError(f"{source}: problem: is missing; add a [problem] table with a kind, such as 'digits-mlp'")
    torch.manual_seed(config.training.seed)
    label = config.problem.label()
    try:
        parts = config.problem.load()
    except Exception as error:
        raise PluginError(f"{label} failed to load: {type(error).__name__}: {error}") from error
    if not isinstance(parts, ProblemParts):
        raise PluginError(f"{label}: `load` returned a {type(parts).__name__}; expected ProblemParts.")
    for name in ("model", "loss_function"):
        if not isinstance(getattr(parts, name), Module):
            raise PluginError(
                f"{label}: {name} is a {type(getattr(parts, name)).__name__}; expected a torch.nn.Module."
            )
    return parts


def model_assignment(config: Config, model: Module) -> tuple[Assignment, list[str]]:
    """Return which group takes which parameter, and a line for all that keeps the groups from being used."""
    parameters = dict(model.named_parameters())
    assignment = assign_parameters(list(parameters), [group.params for group in config.groups])
    needed = [name for name, parameter in parameters.items() if parameter.requires_grad]
    return assignment, assignment.problems(needed)

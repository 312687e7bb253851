"""One training step, by `DirectionalDampedNewton` or by an optimizer of torch, so that one loop runs both."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector
from torch.optim import Optimizer, lr_scheduler

from ddn_core.config import Config
from ddn_core.config.load import config_error
from ddn_core.errors import ConfigError, DdnError, DivergenceWarning, PluginError
from ddn_core.optim import DirectionalDampedNewton, Draws, torch_optimizer
from ddn_core.optim.stopping import gradient_norm, step_norm
from ddn_core.plugins.problem import ProblemParts
from ddn_core.runs.events import StepFigures
from ddn_core.training.problem import model_assignment

SCHEDULERS: Mapping[str, Any] = {
    "step": lr_scheduler.StepLR,
    "exponential": lr_scheduler.ExponentialLR,
    "cosine": lr_scheduler.CosineAnnealingLR,
    "linear": lr_scheduler.LinearLR,
}

Record = Callable[[DirectionalDampedNewton, float], object]
"""Callback between the backward pass and the step, with the optimizer and the loss."""


class Stepper(Protocol):
    """An optimizer that makes training steps on batches."""

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer that makes the steps."""

    def step(self, inputs: Tensor, targets: Tensor, record: Record | None = None) -> StepFigures:
        """Make a step on a batch.

        Args:
            inputs: Inputs of the batch.
            targets: Targets of the batch.
            record: Callback before the step. If it is given, the loss after the step is evaluated.
        """

    def spectra(self) -> list[Tensor]:
        """Return the eigenvalues of each group in the last step, ascending."""


class NewtonStepper:
    """Steps of `DirectionalDampedNewton`."""

    def __init__(self, config: Config, parts: ProblemParts) -> None:
        """Create the optimizer."""
        self._forward = Forward(parts, config)
        self._model = parts.model
        self._optimizer = DirectionalDampedNewton(self._model.named_parameters(), groups=config)
        self._shortens = config.step.on_increase == "shorten"  # the first loss is the one after the whole step
        self._measures_gradient = config.training.stop.gradient_norm is not None

    @property
    def optimizer(self) -> DirectionalDampedNewton:
        """The optimizer that makes the steps."""
        return self._optimizer

    def step(self, inputs: Tensor, targets: Tensor, record: Record | None = None) -> StepFigures:
        """Make a step on a batch, and evaluate the loss after it if something needs that loss."""
        optimizer = self._optimizer
        optimizer.zero_grad()
        draws = Draws.now([inputs.device])
        loss = self._forward(inputs, targets)
        optimizer.backward(loss)
        if record is not None:
            record(optimizer, loss.item())
        seen: list[float] = []
        gradient = gradient_norm(optimizer) if self._measures_gradient else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DivergenceWarning)  # the run itself sees that it diverges
            optimizer.step(partial(self._loss_after, inputs, targets, draws, seen))
        reports = optimizer.last_step
        if not reports:
            return StepFigures(loss=loss.item(), taken=0.0, gradient_norm=gradient)
        if record is not None and not seen:
            self._loss_aside(inputs, targets, draws, seen)
        ranges = [limits for report in reports if (limits := report.damping_range()) is not None]
        decrease = math.fsum(report.predicted_decrease for report in reports)
        return StepFigures(
            loss=loss.item(),
            step_norm=step_norm(reports),
            directions=sum(report.directions for report in reports),
            damping_min=min((lowest for lowest, _ in ranges), default=None),
            damping_max=max((highest for _, highest in ranges), default=None),
            predicted_decrease=None if math.isnan(decrease) else decrease,
            taken=min(report.taken for report in reports),
            loss_after=seen[0 if self._shortens else -1] if seen else None,
            clip=min(report.clip for report in reports),
            gradient_norm=gradient,
        )

    @torch.no_grad()
    def _loss_after(self, inputs: Tensor, targets: Tensor, draws: Draws, seen: list[float]) -> Tensor:
        with draws.repeated():
            loss = self._forward(inputs, targets)
        seen.append(float(loss))
        return loss

    def _loss_aside(self, inputs: Tensor, targets: Tensor, draws: Draws, seen: list[float]) -> None:
        """Evaluate the loss without a trace in the run: buffers are restored."""
        buffers = {name: tensor.clone() for name, tensor in self._model.named_buffers()}
        self._loss_after(inputs, targets, draws, seen)
        with torch.no_grad():
            for name, tensor in self._model.named_buffers():
                tensor.copy_(buffers[name])

    def spectra(self) -> list[Tensor]:
        """Return the eigenvalues of each group in the last step, ascending."""
        return [report.all_evals.cpu() for report in self._optimizer.last_step]


class TorchStepper:
    """Steps of an optimizer of torch."""

    def __init__(self, config: Config, parts: ProblemParts) -> None:
        """Create the optimizer."""
        assert config.optimizer is not None
        self._forward = Forward(parts, config)
        self._model = parts.model
        self._rules = config.training.stop
        self._optimizer = torch_optimizer(config.optimizer, parts.model.parameters())

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer that makes the steps."""
        return self._optimizer

    def step(self, inputs: Tensor, targets: Tensor, record: Record | None = None) -> StepFigures:
        """Make a step on a batch; `record` is ignored, because there is no curvature."""
        losses: list[Tensor] = []
        gradients: list[float] = []

        def closure() -> float:
            self._optimizer.zero_grad()
            loss = self._forward(inputs, targets)
            loss.backward()  # type: ignore[no-untyped-call]
            if self._rules.gradient_norm is not None:
                gradients.append(gradient_norm(self._optimizer))
            losses.append(loss.detach())
            return float(losses[-1])

        before = None if self._rules.step_norm is None else self._parameters()
        self._optimizer.step(closure)
        return StepFigures(
            loss=float(losses[0]),
            step_norm=None if before is None else float((self._parameters() - before).norm()),
            gradient_norm=gradients[0] if gradients else None,
        )

    def _parameters(self) -> Tensor:
        return parameters_to_vector(self._model.parameters()).detach()

    def spectra(self) -> list[Tensor]:
        """Return an empty list, because there is no curvature."""
        return []


class Forward:
    """The loss of a batch."""

    def __init__(self, parts: ProblemParts, config: Config) -> None:
        """Use the model and the loss of a problem."""
        self._parts = parts
        self._label = config.problem.label() if config.problem is not None else "the problem"

    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss.

        Raises:
            PluginError: Model or loss failed on the batch.
        """
        try:
            loss: Tensor = self._parts.loss_function(self._parts.model(inputs), targets)
        except DdnError:
            raise
        except Exception as error:
            raise PluginError(
                f"{self._label}: model or loss failed on a batch with inputs {list(inputs.shape)} and targets "
                f"{list(targets.shape)}: {type(error).__name__}: {error}"
            ) from error
        return loss


def stepper_of(config: Config, parts: ProblemParts, source: str) -> Stepper:
    """Move the model to the device and dtype of the config, and return its stepper.

    Raises:
        ConfigError: The device is not available, or the groups do not fit the model.
    """
    if config.optimizer is None and (problems := model_assignment(config, parts.model)[1]):
        raise config_error(source, problems)
    try:
        parts.model.to(device=config.training.device, dtype=getattr(torch, config.training.dtype))
    except (RuntimeError, AssertionError) as error:  # torch raises these for a device that is not available
        raise ConfigError(f"{source}: training.device: {config.training.device!r}: {error}") from error
    return NewtonStepper(config, parts) if config.optimizer is None else TorchStepper(config, parts)


def scheduler_of(config: Config, optimizer: Optimizer) -> Any | None:
    """Return the learning-rate scheduler of a config, or `None`."""
    given = config.training.scheduler
    return None if given is None else SCHEDULERS[given.kind](optimizer, **given.options())


def learning_rates(optimizer: Optimizer) -> Sequence[float]:
    """Return the learning rate of each group."""
    return [float(group["lr"]) for group in optimizer.param_groups]

"""Rules that end a training, for `ddn train` and for a loop of one's own."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.optim import Optimizer

from ddn_core.config.stopping import StopConfig
from ddn_core.errors import ArgumentError
from ddn_core.optim.report import StepReport
from ddn_core.plugins.resolve import validated
from ddn_core.runs.scores import is_loss

NORMS = ("gradient_norm", "step_norm")


@dataclass(frozen=True)
class StopReason:
    """The reason why a training stopped.

    Attributes:
        rule: The rule: the name of a setting of `[training.stop]`.
        text: The reason in words.
    """

    rule: str
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass
class _Mean:
    """Mean of the values since the last evaluation."""

    total: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        self.total, self.count = self.total + value, self.count + 1

    @property
    def value(self) -> float:
        return self.total / self.count if self.count else math.nan


@dataclass
class _Position:
    """Values of the rules that change while a training goes on.

    Attributes:
        means: Mean of the loss and of each norm since the last evaluation.
        best: The best value of the metric.
        waited: Number of evaluations since then.
    """

    means: dict[str, _Mean] = field(default_factory=lambda: {name: _Mean() for name in ("loss", *NORMS)})
    best: float | None = None
    waited: int = 0


class Stopping:
    """The rules of `[training.stop]`, for a loop of one's own.

    Example:
        >>> stopping = Stopping(loss=1e-3, patience=5, seconds=600)
        >>> for epoch in range(100):
        ...     for X, y in loader:
        ...         optimizer.zero_grad()
        ...         loss = loss_function(model(X), y)
        ...         optimizer.backward(loss)
        ...         stopping.see(optimizer.step(), optimizer)
        ...     if reason := stopping.reason({"test_loss": test_loss(model)}):
        ...         print(reason)
        ...         break

    Attributes:
        rules: The rules.
    """

    def __init__(
        self,
        rules: StopConfig | Mapping[str, Any] | None = None,
        *,
        clock: Callable[[], float] = time.perf_counter,
        **settings: Any,
    ) -> None:
        """Begin with the rules; the seconds count from now.

        Args:
            rules: The rules as a table or a config; or pass them by name.
            clock: Returns the time in seconds.
            **settings: The rules by name: `loss`, `gradient_norm`, `step_norm`, `seconds`, `patience`, and with it
                `metric`, `maximize` and `min_change`.

        Raises:
            ArgumentError: Rules are given both as a table and by name.
            ConfigError: A rule is wrong.
        """
        if rules is not None and settings:
            raise ArgumentError("The rules are given both as a table and by name. Give them once.")
        self.rules: StopConfig = validated(StopConfig, rules if rules is not None else settings, "training.stop")
        self._clock = clock
        self._begun = clock()
        self._position = _Position()

    def see(self, loss: float, optimizer: Optimizer | None = None, **norms: float | None) -> None:
        """Note a step.

        Args:
            loss: Loss of the step.
            optimizer: The optimizer after its step: norms that a rule needs are read from it, and wait for the device.
            **norms: `gradient_norm` and `step_norm`, if they are known.

        Raises:
            ArgumentError: A rule needs a norm that is not given, and that the optimizer does not report.
        """
        self._position.means["loss"].add(float(loss))
        for name in NORMS:
            if getattr(self.rules, name) is not None:
                value = norms.get(name)
                self._position.means[name].add(_norm(name, optimizer) if value is None else value)

    def late(self) -> StopReason | None:
        """Return the reason to stop if the time is over."""
        limit, seconds = self.rules.seconds, self._clock() - self._begun
        if limit is None or seconds < limit:
            return None
        return StopReason("seconds", f"{seconds:.4g} seconds have passed, of {limit:g}")

    def reason(self, metrics: Mapping[str, float] | None = None) -> StopReason | None:
        """Return the reason to stop, if a rule is met at an evaluation; means begin anew.

        Args:
            metrics: The values of the evaluation by name. `whole_train_loss` takes the place of the mean loss.

        Raises:
            ArgumentError: `patience` needs a metric that is not given.
        """
        metrics, means = metrics or {}, self._position.means
        self._position.means = _Position().means
        values = {name: mean.value for name, mean in means.items()}
        values["loss"] = metrics.get("whole_train_loss", values["loss"])
        impatience = self._impatience({"train_loss": values["loss"], **metrics})
        for name, what in (("loss", "training loss"), ("gradient_norm", "gradient norm"), ("step_norm", "step norm")):
            limit = getattr(self.rules, name)
            if limit is not None and values[name] <= limit:
                return StopReason(name, f"the {what} is {values[name]:.4g}, at most {limit:g}")
        return impatience or self.late()

    def state_dict(self) -> dict[str, Any]:
        """Return the position of the rules, with the seconds that have passed, as plain data."""
        means = {name: (mean.total, mean.count) for name, mean in self._position.means.items()}
        return {
            "means": means,
            "best": self._position.best,
            "waited": self._position.waited,
            "seconds": self._clock() - self._begun,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a position that `state_dict` returned."""
        means = {name: _Mean(*values) for name, values in state["means"].items()}
        self._position = _Position(means, state["best"], state["waited"])
        self._begun = self._clock() - state["seconds"]

    def _impatience(self, metrics: Mapping[str, float]) -> StopReason | None:
        rules, position = self.rules, self._position
        if rules.patience is None:
            return None
        if rules.metric not in metrics:
            raise ArgumentError(f"`patience` watches {rules.metric!r}, and the metrics have {', '.join(metrics)}.")
        value = float(metrics[rules.metric])
        upwards = not is_loss(rules.metric) if rules.maximize is None else rules.maximize
        gain = math.inf if position.best is None else (value - position.best) * (1 if upwards else -1)
        if math.isfinite(value) and gain > rules.min_change:
            position.best, position.waited = value, 0
            return None
        position.waited += 1
        if position.waited < rules.patience:
            return None
        best = "no finite value" if position.best is None else f"none better than {position.best:.4g}"
        return StopReason("patience", f"{rules.metric} had {best} in {rules.patience} evaluations")


def gradient_norm(optimizer: Optimizer) -> float:
    """Return the Euclidean norm of the gradients of all parameters."""
    gradients = [one.grad for group in optimizer.param_groups for one in group["params"] if one.grad is not None]
    norms = [torch.linalg.vector_norm(one, dtype=torch.float64) for one in gradients]  # squares may be out of range
    return math.hypot(*torch.stack(norms).tolist()) if norms else 0.0


def step_norm(reports: tuple[StepReport, ...]) -> float:
    """Return the Euclidean norm of the part of a step that was kept, over all groups."""
    lengths = (report.lr * report.clip * report.share * report.taken * float(report.step_norm) for report in reports)
    return math.hypot(*lengths)


def _norm(name: str, optimizer: Optimizer | None) -> float:
    """Return a norm that an optimizer reports.

    Raises:
        ArgumentError: It does not.
    """
    if optimizer is None:
        raise ArgumentError(f"The rule {name} needs the norm of each step. Pass the optimizer, or {name}=, to `see`.")
    if name == "gradient_norm":
        return gradient_norm(optimizer)
    reports = getattr(optimizer, "last_step", None)
    if reports is None:
        raise ArgumentError(
            "The rule step_norm needs the norm of each step, which this optimizer does not report. Pass step_norm=."
        )
    return step_norm(reports)

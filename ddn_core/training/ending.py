"""The end of a run before its last epoch: by a stop rule, or because it diverged."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.nn import Module

from ddn_core.config import Config
from ddn_core.errors import ConfigError, NonFiniteError
from ddn_core.optim import Stopping, StopReason
from ddn_core.optim.divergence import DivergenceWatch, is_above
from ddn_core.plugins.problem import ProblemParts
from ddn_core.runs.events import EndEvent, EvaluationEvent, StepEvent
from ddn_core.runs.scores import LOSSES, values_of
from ddn_core.training.advice import advice

DIVERGENCE = "divergence"
"""Name of the rule that ends a run that diverged, beside the names of the stop rules."""


class Ending:
    """The rules that end a run, and its end once a rule is met.

    Attributes:
        end: The end; `None` as long as the run goes on.
    """

    def __init__(self, config: Config, clock: Callable[[], float]) -> None:
        """Begin with the rules of a config; the seconds count from now."""
        self._config = config
        self._stopping = Stopping(config.training.stop, clock=clock)
        self._watch = DivergenceWatch(config.training.divergence_factor)
        self.end: EndEvent | None = None

    def see_step(self, steps: Sequence[StepEvent]) -> None:
        """Judge the last of the steps of the run."""
        last = steps[-1]
        self._watch.see(last.loss)
        self._stopping.see(last.loss, gradient_norm=last.gradient_norm, step_norm=last.step_norm)
        if self._config.training.on_divergence == "stop":
            self._judge_losses(steps)
        self._stop(self._stopping.late(), len(steps))

    def see_evaluation(self, event: EvaluationEvent, steps: Sequence[StepEvent], model: Module) -> None:
        """Judge an evaluation."""
        if self._config.training.on_divergence == "stop":
            self._judge_model(event, steps, model)
        self._stop(self._stopping.reason(values_of(event)), event.step)

    def see_last(self, event: EvaluationEvent, steps: Sequence[StepEvent], model: Module) -> None:
        """Judge a run that ends by itself or by a stop rule, by its last evaluation."""
        limit = self._watch.limit_of_mean
        mean = event.train_loss if event.whole_train_loss is None else event.whole_train_loss
        self._judge_losses(steps)
        if mean > limit:  # false for NaN: the mean is that if a single step was skipped
            step = next((one.step for one in steps if is_above(one.loss, limit)), event.step)
            reason = f"the training loss is {mean:.3g} in the end, and was {self._watch.first[0]:.3g} at first"
            self._diverge(step, reason, steps)
        self._judge_model(event, steps, model)

    def see_error(self, error: NonFiniteError, steps: Sequence[StepEvent]) -> None:
        """Note that a step after these steps could not be made."""
        step = next(iter(self._watch.high_steps), len(steps))
        self._diverge(step, str(error), steps)

    def state_dict(self) -> dict[str, Any]:
        """Return the position of the rules as plain data."""
        watch = self._watch
        seen = {"first": watch.first, "last": watch.last, "lowest": watch.lowest, "count": watch.count}
        return {"stopping": self._stopping.state_dict(), "watch": seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a position that `state_dict` returned."""
        self._stopping.load_state_dict(state["stopping"])
        self._watch = DivergenceWatch(self._config.training.divergence_factor, **state["watch"])

    def _diverge(self, step: int, reason: str, steps: Sequence[StepEvent]) -> None:
        """Note that the run diverged at a step; this says more than the stop rule that may have ended the run."""
        if self.end is None or self.end.diverged_at is None:
            self.end = EndEvent(DIVERGENCE, reason, len(steps), step, advice(steps, step, self._config))

    def _judge_losses(self, steps: Sequence[StepEvent]) -> None:
        if (step := self._watch.diverged_at) is not None:
            self._diverge(step, self._watch.growth, steps)

    def _judge_model(self, event: EvaluationEvent, steps: Sequence[StepEvent], model: Module) -> None:
        """Judge the parameters where a test loss is not finite; test data with NaN is no divergence."""
        if math.isinf(event.test_loss):
            self._diverge(event.step, "the test loss is infinite", steps)
        elif math.isnan(event.test_loss) and not all(bool(one.isfinite().all()) for one in model.parameters()):
            self._diverge(event.step, "the parameters are not finite", steps)

    def _stop(self, reason: StopReason | None, step: int) -> None:
        if self.end is None and reason is not None:
            self.end = EndEvent(reason.rule, reason.text, step)


def check_metric(config: Config, parts: ProblemParts, source: str) -> None:
    """Check that the metric of `patience` is one that the run computes.

    Raises:
        ConfigError: It is not.
    """
    rules = config.training.stop
    losses = [name for name in LOSSES if name != "whole_train_loss" or config.training.evaluate_training]
    if rules.patience is not None and rules.metric not in (known := [*losses, *parts.metrics]):
        raise ConfigError(
            f"{source}: training.stop.metric: the run has no metric {rules.metric!r}. It has {', '.join(known)}."
        )

"""The score of a run: its last and its best values, and the time at which it reached a target."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ddn_core.errors import ArgumentError
from ddn_core.runs.events import EvaluationEvent
from ddn_core.runs.record import RunRecord

LOSSES = ("train_loss", "test_loss", "whole_train_loss")


def is_loss(metric: str) -> bool:
    """Return whether a metric is a loss. Smaller values of a loss are better, larger values of any other metric."""
    return metric in LOSSES


@dataclass(frozen=True)
class Target:
    """A value that a metric is to reach.

    Attributes:
        metric: The metric.
        value: The value.
        upwards: Whether the metric reaches it from below.
    """

    metric: str
    value: float
    upwards: bool

    @classmethod
    def of_text(cls, text: str) -> Target:
        """Return the target of `METRIC=VALUE`, or of `METRIC<=VALUE` or `METRIC>=VALUE`, which name the direction.

        Raises:
            ArgumentError: The text has another form.
        """
        found = re.fullmatch(r"\s*([^<>=]+?)\s*(<=|>=|=)\s*(\S+)\s*", text)
        try:
            value = float(found[3]) if found else math.nan
        except ValueError:
            value = math.nan
        if found is None or not math.isfinite(value):
            raise ArgumentError(f"{text!r} is not a target. Write a metric and a number, such as train_loss=0.1.")
        metric, relation = found[1], found[2]
        return cls(metric, value, relation == ">=" or (relation == "=" and not is_loss(metric)))

    def __str__(self) -> str:
        return f"{self.metric} {'>=' if self.upwards else '<='} {self.value!r}"

    def met(self, value: float) -> bool:
        """Return whether a value is as good as the target; NaN never is."""
        return value >= self.value if self.upwards else value <= self.value


@dataclass(frozen=True)
class Score:
    """The evaluations of a run, and the values that rank it.

    Attributes:
        seed: The seed of the run.
        finished: Whether the run came to its end, or a rule stopped it, and it did not diverge.
        evaluations: Its evaluations, in order.
        diverged_at: Number of the step at which the run diverged; `None` if it did not.
    """

    seed: int
    finished: bool
    evaluations: tuple[EvaluationEvent, ...]
    diverged_at: int | None = None

    @classmethod
    def of(cls, run: RunRecord) -> Score:
        """Return the score of a run folder."""
        seed = int(run.config.get("training", {}).get("seed", 0))
        finished = run.finished and run.diverged_at is None
        return cls(seed, finished, run.evaluations, run.diverged_at)

    @property
    def epochs(self) -> tuple[EvaluationEvent, ...]:
        """The evaluations that end an epoch."""
        return tuple(event for event in self.evaluations if event.ends_epoch)

    @property
    def metrics(self) -> list[str]:
        """The names of all metrics."""
        return distinct(map(values_of, self.evaluations))

    def final(self, metric: str) -> float | None:
        """Return the value after the last epoch; `None` if it is not finite, or the run did not finish."""
        return finite(values_of(self.epochs[-1]).get(metric)) if self.finished and self.epochs else None

    def best(self, metric: str, maximize: bool) -> EvaluationEvent | None:
        """Return the evaluation at the end of the best epoch; `None` if no epoch has a finite value."""
        there = [event for event in self.epochs if finite(values_of(event).get(metric)) is not None]
        choose = max if maximize else min
        return choose(there, key=lambda event: values_of(event)[metric], default=None)

    def reached(self, target: Target) -> EvaluationEvent | None:
        """Return the first evaluation that met a target; it may lie within an epoch."""
        met = (event for event in self.evaluations if target.met(values_of(event).get(target.metric, math.nan)))
        return next(met, None)


def values_of(event: EvaluationEvent) -> Mapping[str, float]:
    """Return losses and metrics by name, without losses that were not computed; a value that was not finite is NaN."""
    losses = {name: getattr(event, name) for name in LOSSES}
    found = {**losses, **event.test_metrics}
    numbers = {name: math.nan if value is None else float(value) for name, value in found.items()}
    if event.whole_train_loss is None:
        del numbers["whole_train_loss"]
    return numbers


def finite(value: float | None) -> float | None:
    """Return a number if it is finite, and `None` otherwise."""
    return value if value is not None and math.isfinite(value) else None


def distinct(names: Iterable[Iterable[str]]) -> list[str]:
    """Return the names of the metrics of several runs or evaluations, each once, in order of appearance."""
    return list(dict.fromkeys(name for group in names for name in group))

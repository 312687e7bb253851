"""Comparison on an everyday problem: our optimizer against the best of the first-order settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import hypot, inf, isfinite, sqrt
from statistics import mean, stdev
from typing import Any

from benchmarks.everyday.optimizers import FIRST_ORDER
from benchmarks.measuring.failure import failed
from benchmarks.measuring.learning_curve import L_BFGS
from benchmarks.reporting.summary import geometric_mean

_LOWEST = 1e-10  # as a share of the first loss; keeps losses of 0 out of the geometric means
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Outcome:
    """The runs of a side on a problem, one for each seed.

    Attributes:
        side: Name of the side.
        runs: Learning curves and test errors, or failures.
    """

    side: str
    runs: Sequence[dict[str, Any]]

    @property
    def loss(self) -> float:
        """Training loss at the end, the geometric mean over the seeds."""
        return self._loss_after(-1)

    @property
    def diverged(self) -> int:
        """Number of runs that failed, or end with a loss that is not finite or is above the first."""
        return sum(failed(run) or not run["losses"][-1] <= run["losses"][0] for run in self.runs)

    @property
    def test_error(self) -> float:
        """Test error at the end, the mean over the seeds."""
        return mean(self._test_errors)

    @property
    def test_deviation(self) -> float:
        """Standard deviation of the test errors over the seeds."""
        return stdev(self._test_errors) if len(self.runs) > 1 and isfinite(self.test_error) else 0.0

    @property
    def _test_errors(self) -> list[float]:
        return [inf if failed(run) else run["test_error"] for run in self.runs]

    def seconds_to(self, goal: float) -> float:
        """Return the mean time after which the geometric mean of the losses is at most a goal; infinite if never."""
        if any(failed(run) for run in self.runs):
            return inf
        for epoch in range(1, max(len(run["losses"]) for run in self.runs)):
            if self._loss_after(epoch) <= (1 + _ROUNDING) * goal:
                return mean(_at(run["seconds"], epoch) for run in self.runs)
        return inf

    def _loss_after(self, epoch: int) -> float:
        """Return the geometric mean of the losses after an epoch."""
        if any(failed(run) for run in self.runs):
            return inf
        return geometric_mean([max(_at(run["losses"], epoch), _LOWEST * run["losses"][0]) for run in self.runs])


def _at(values: Sequence[float], epoch: int) -> float:
    """Return the value after an epoch, or the last one of a run that ended earlier."""
    return values[min(epoch, len(values) - 1)]


@dataclass(frozen=True)
class Comparison:
    """All sides on a problem.

    Attributes:
        measurement: The problem and the runs of all sides, and the timed runs of the best first-order setting, as plain
            data.
    """

    measurement: dict[str, Any]

    @property
    def problem(self) -> str:
        """Name of the problem."""
        return str(self.measurement["problem"])

    @property
    def problem_set(self) -> str:
        """Name of the set of the problem."""
        return str(self.measurement["set"])

    @cached_property
    def outcomes(self) -> dict[str, Outcome]:
        """Outcome of each side by name."""
        runs: dict[str, list[dict[str, Any]]] = {}
        for run in self.measurement["runs"]:
            runs.setdefault(run["side"], []).append(run)
        return {side: Outcome(side, found) for side, found in runs.items()}

    @property
    def best(self) -> Outcome:
        """The first-order setting with the lowest training loss."""
        return min((self.outcomes[side.name] for side in FIRST_ORDER), key=lambda outcome: outcome.loss)

    @property
    def lowest_test_error(self) -> float:
        """The lowest test error of the first-order settings."""
        return min(self.outcomes[side.name].test_error for side in FIRST_ORDER)

    @property
    def l_bfgs(self) -> Outcome | None:
        """L-BFGS, on full batches."""
        return self.outcomes.get(L_BFGS)

    @property
    def ours(self) -> list[Outcome]:
        """Our optimizer: each preset without and with a closure."""
        theirs = {L_BFGS, *(side.name for side in FIRST_ORDER)}
        return [outcome for side, outcome in self.outcomes.items() if side not in theirs]

    def loss_ratio(self, ours: Outcome) -> float:
        """Return our training loss as a multiple of that of the best first-order setting."""
        return ours.loss / self.best.loss

    def seconds(self, outcome: Outcome) -> float:
        """Return a side's time to the final loss of the best first-order setting."""
        return outcome.seconds_to(self.best.loss)

    @property
    def best_seconds(self) -> float:
        """Time of the best first-order setting to its final loss: if it ran again beside ours, the time of that run."""
        timed = self.measurement["timed"]
        return self.seconds(Outcome(self.best.side, timed) if timed else self.best)

    def time_ratio(self, outcome: Outcome) -> float:
        """Return a side's time to that loss as a multiple of that of the best first-order setting."""
        return self.seconds(outcome) / self.best_seconds

    def has_no_higher_loss(self, ours: Outcome) -> bool:
        """Return whether our training loss is at most that of the best first-order setting."""
        return self.loss_ratio(ours) <= 1 + _ROUNDING

    def has_no_higher_test_error(self, ours: Outcome) -> bool:
        """Return whether our test error exceeds that of the best first-order setting by at most the spread of seeds.

        The spread is the standard deviation over the seeds, the root mean square of both sides'.
        """
        best = self.best
        spread = hypot(ours.test_deviation, best.test_deviation) / sqrt(2)
        return ours.test_error <= best.test_error + spread

    def is_as_fast(self, ours: Outcome) -> bool:
        """Return whether we reach that loss in at most the time of the best first-order setting."""
        return self.time_ratio(ours) <= 1


@dataclass(frozen=True)
class Check:
    """A property that a share of the problems must have.

    Attributes:
        title: Heading in tables.
        wanted: The property in words, of targets.
        share: The share.
        is_met: Function that returns whether an outcome has the property.
    """

    title: str
    wanted: str
    share: float
    is_met: Callable[[Comparison, Outcome], bool]


CHECKS = (
    Check(
        "loss no higher",
        "training loss after the same epochs at most that of the best of twelve first-order settings",
        0.9,
        Comparison.has_no_higher_loss,
    ),
    Check(
        "test error no higher",
        "test error no higher than that of the same setting, within the spread of the seeds",
        0.9,
        Comparison.has_no_higher_test_error,
    ),
    Check(
        "loss in no more time",
        "time to that training loss at most the setting's own time to it",
        0.5,
        Comparison.is_as_fast,
    ),
)
"""Properties that are counted over the problems."""

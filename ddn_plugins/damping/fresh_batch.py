"""One damping for all directions that asks each fresh batch whether the iterate is worse than its average."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, ClassVar, Self

from pydantic import Field, PositiveFloat, PrivateAttr, model_validator

from ddn_core.api import Damping, Unit
from ddn_plugins._bounds import check_order
from ddn_plugins._flat import uniform_deltas

if TYPE_CHECKING:
    from torch import Tensor

    from ddn_core.api import Context, Directions, Outcome

MEMORY = 0.9
"""Factor of the exponential averages of the losses."""
WORST = 10.0
"""Largest loss at the iterate that is averaged, in average losses: one batch must not outweigh all others."""
LEAST = 1e-3
"""Smallest ratio of the losses that is distinguished."""
MEASURED_GAIN = 0.5
"""Gain where the loss after each step is known, and the damping decreases: that loss stops a damping too small."""
RESTART = 9.0
"""Factor on the damping after a loss that is not finite."""


class FreshBatch(Damping, kind="fresh-batch"):
    """δ_k = μ T: T is a unit that the loss gives, and μ follows from the loss of fresh batches at the iterate.

    It belongs to groups with `averaging`, and needs no unit and no tuning. T is the mean of ‖g_n‖² over the loss, the
    reciprocal of Polyak's step length (1987) for one sample. μ is the larger of two numbers. The first is about noise.
    A fresh batch, which the iterate has not seen, gives its loss L at the average and, by the quadratic model, at the
    iterate. Where the second is more than `target` times the first, in exponential averages, the iterate carries noise
    that the average cannot remove, and μ grows; where it is less, μ decreases. The second number is about the quadratic
    model, as in Levenberg-Marquardt methods: with a closure it is multiplied by 3 if the model's error in the change of
    the loss is above `bad`, and divided by 3 if it is below `good`; without a closure it decays from `initial` by the
    factor `decay` in each step. If a loss is not finite, the first number is multiplied by 9.

    Losses that are not positive give no unit; T is then the mean of the eigenvalues. A damping below the rounding
    errors of the curvature is raised to them, so that no step needs eigenvectors.

    When it fails: without `averaging` no batch is fresh, and μ only decays; without `max_decrease` a confident mistake
    can move the parameters too far. In some dozens of steps μ cannot settle: `initial` and `noise` then decide.
    """

    accepts: ClassVar[frozenset[str]] = frozenset({"loss_after"})
    may_be_raised: ClassVar[bool] = True

    initial: Annotated[PositiveFloat, Unit("1")] = Field(1.0, description="Damping of the first step, in units T.")
    noise: Annotated[PositiveFloat, Unit("1")] = Field(
        1e-2, description="First value of the damping that follows the noise, in units T."
    )
    target: Annotated[float, Unit("1")] = Field(
        1.4, gt=1, description="Ratio of the losses of fresh batches at the iterate and at the average, which is kept."
    )
    gain: Annotated[PositiveFloat, Unit("1")] = Field(
        0.2, description="Change of the logarithm of the damping for each unit of the logarithm of that ratio."
    )
    decay: Annotated[float, Unit("1")] = Field(
        2 / 3, gt=0, le=1, description="Factor on the damping that `initial` begins, in each step without a closure."
    )
    good: Annotated[float, Unit("1")] = Field(
        0.25, ge=0, le=0.5, description="Relative error of the predicted change below which the damping decreases."
    )
    bad: Annotated[float, Unit("1")] = Field(
        0.75, ge=0.5, le=1, description="Relative error of the predicted change above which the damping grows."
    )
    lowest: Annotated[PositiveFloat, Unit("1")] = Field(1e-6, description="Smallest damping, in units T.")
    highest: Annotated[PositiveFloat, Unit("1")] = Field(1e3, description="Largest damping, in units T.")

    _model: float = PrivateAttr()
    _noise: float = PrivateAttr()
    _at_average: float | None = PrivateAttr(None)
    _at_iterate: float | None = PrivateAttr(None)
    _seen: int = PrivateAttr(-1)
    _is_measured: bool = PrivateAttr(False)

    def model_post_init(self, context: object, /) -> None:
        """Start with the initial dampings, clamped to the bounds."""
        self._model, self._noise = self._bounded(self.initial), self._bounded(self.noise)

    @model_validator(mode="after")
    def _check_bounds(self) -> Self:
        return check_order(self, "lowest", "highest")

    def uniform(self, context: Context) -> float:
        """Return the damping of all directions."""
        _, _, noise = self._after_batch(context.step, context.loss, context.displacement_change)
        return max(self._model, noise) * _unit(context)

    def damp(self, directions: Directions) -> Tensor:
        """Return the damping for each direction."""
        return uniform_deltas(self.uniform(directions.context), directions)

    def observe(self, outcome: Outcome) -> None:
        """Adapt both numbers to the outcome of a step, or of a further try of the same step."""
        given = outcome.step, outcome.loss_before, outcome.displacement_change
        self._at_average, self._at_iterate, self._noise = self._after_batch(*given)
        self._seen, after = outcome.step, outcome.loss_after
        largest = max(self._model, self._noise)
        if after is not None and not math.isfinite(after) and not self._is_measured:
            self._noise = self._bounded(RESTART * largest)
            return
        if outcome.damping_factor > 1:
            self._noise = self._bounded(2 * self._noise)
        if after is None:
            self._model = self._bounded(self._model * self.decay)
            return
        self._is_measured = True
        error = outcome.model_error
        factor = 3 if error > self.bad else 1 / 3 if error < self.good else 1
        self._model = self._bounded(factor * largest * outcome.damping_factor)

    def _after_batch(self, step: int, loss: float, change: float) -> tuple[float | None, float | None, float]:
        """Return the averages of the losses, and the damping that follows the noise, after a batch.

        Args:
            step: Number of the step, whose batch counts once.
            loss: Loss of the batch at the average.
            change: Change of this loss from the average to the iterate; 0 where they are the same.
        """
        if step == self._seen or not change or not math.isfinite(loss + change):
            return self._at_average, self._at_iterate, self._noise
        earlier = loss if self._at_average is None or self._at_iterate is None else self._at_average
        average = MEMORY * earlier + (1 - MEMORY) * loss
        own = loss if self._at_iterate is None else self._at_iterate
        iterate = MEMORY * own + (1 - MEMORY) * min(max(loss + change, 0.0), WORST * average)
        if average <= 0:
            return average, iterate, self._noise
        excess = math.log(max(iterate / average, LEAST))
        gain = MEASURED_GAIN if self._is_measured and excess < 0 else self.gain
        change_of_log = gain * max(-1.0, min(1.0, excess - math.log(self.target)))
        return average, iterate, self._bounded(self._noise * math.exp(change_of_log))

    def _bounded(self, value: float) -> float:
        return min(max(value, self.lowest), self.highest)


def _unit(context: Context) -> float:
    """Return T: the mean of ‖g_n‖² over the loss, or the mean of the eigenvalues where there is no such number."""
    square, loss = context.sample_gradient_square, context.loss
    if loss > 0 and square > 0:
        return square / loss
    return context.mean_curvature or 1.0

"""Outcome of a step, from which adaptive strategies learn."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ddn_core.errors import StrategyError

ROUNDING = 2e-7
"""Relative rounding error of a loss in float32."""


@dataclass(frozen=True)
class Outcome:
    """Outcome of the step of one group; later versions may add fields.

    Attributes:
        step: Number of steps before this one.
        lr: Factor on the group's step, after the limits on its length have reduced it, times the share of averaged
            parameters.
        loss_before: Loss at which the step was computed.
        loss_after: Loss of the same batch after all groups have moved; `None` if it was not evaluated. A strategy that
            neither requires nor accepts `"loss_after"` cannot read it.
        predicted_decrease: Decrease of the loss that this group's quadratic model predicted, in loss.
        total_predicted_decrease: Sum of the predicted decreases of all groups. Since all groups contribute to the
            decrease of the loss, that decrease is compared with this sum.
        step_norm: Euclidean norm of the group's step, without `lr`, in param.
        directions: Number of directions K. If the step was computed without directions, the largest possible number,
            min(R, P).
        taken: Fraction of the step that the optimizer kept: 1 for the whole step, less if it was shortened, 0 if it was
            undone because the loss increased, or left its parameters at a loss that is not finite. All other attributes
            describe the whole step.
        displacement_change: Change of the loss from the average of the iterates to the iterate, before the step, as
            this group's quadratic model of the batch predicts it, in loss; 0 without `averaging`.
        damping_factor: Factor on the dampings by which `max_decrease` was kept; 1 if they were not raised.
    """

    step: int
    lr: float
    loss_before: float
    loss_after: float | None
    predicted_decrease: float
    total_predicted_decrease: float
    step_norm: float
    directions: int
    taken: float = 1.0
    displacement_change: float = 0.0
    damping_factor: float = 1.0

    @property
    def actual_decrease(self) -> float:
        """Decrease of the loss by the steps of all groups; NaN if the loss after the step is not known."""
        return math.nan if self.loss_after is None else self.loss_before - self.loss_after

    @property
    def model_error(self) -> float:
        """Error of the predicted change of the loss, over its size; 0 if the model is exact, NaN if it is not known.

        At 1 or more a step that was to lower the loss has not lowered it. Infinite if the loss is no longer finite.
        """
        if self.loss_after is None:
            return math.nan
        if not math.isfinite(self.loss_after):
            return math.inf
        size = abs(self.total_predicted_decrease) + ROUNDING * abs(self.loss_before)
        error = self.total_predicted_decrease - self.actual_decrease
        return error / size if size > 0 else 0.0

    @property
    def is_rounding(self) -> bool:
        """True if predicted and actual decrease are below the rounding error of a float32 loss, so `ratio` is noise."""
        bound = ROUNDING * abs(self.loss_before)
        return abs(self.actual_decrease) <= bound and abs(self.total_predicted_decrease) <= bound  # false for NaN

    @property
    def ratio(self) -> float:
        """Actual over predicted decrease of the loss, for all groups together; 1 if the quadratic model is exact.

        NaN if either decrease is NaN, or if no decrease was predicted, since the ratio then has no meaning.
        """
        predicted = self.total_predicted_decrease
        return self.actual_decrease / predicted if predicted > 0 else math.nan

    def read_by(self, reader: str) -> Outcome:
        """Return this outcome for a strategy that does not declare the loss after the step, and so cannot read it.

        Args:
            reader: Name of the strategy, for messages.
        """
        return OutcomeWithoutLoss(self, reader)


class OutcomeWithoutLoss(Outcome):
    """An outcome without the loss after the step, in which reading that loss, or a figure computed from it, raises.

    A strategy that does not declare the loss would read NaN, unless another strategy happened to require the loss.
    """

    def __init__(self, outcome: Outcome, reader: str) -> None:
        """Hide the loss after the step.

        Args:
            outcome: The outcome.
            reader: Name of the strategy that receives this outcome, for messages.
        """
        vars(self).update({name: value for name, value in vars(outcome).items() if name != "loss_after"})
        vars(self).update(_reader=reader)

    def __getattribute__(self, name: str) -> Any:
        """Return an attribute, or raise a `StrategyError` in place of the loss after the step."""
        if name == "loss_after":
            raise StrategyError(
                f"{vars(self)['_reader']} reads the loss after the step (`loss_after`, `actual_decrease`, `ratio`, "
                "`model_error` or `is_rounding` of an outcome), but does not declare it. Write `requires = "
                'frozenset({"loss_after"})` in its class, or `accepts = frozenset({"loss_after"})` if it does without '
                "this loss where there is no closure."
            )
        return super().__getattribute__(name)

    def __repr__(self) -> str:
        """Return the fields that can be read."""
        given = [f"{name}={value!r}" for name, value in vars(self).items() if name != "_reader"]
        return f"Outcome({', '.join(given)})"

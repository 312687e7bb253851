"""What a step did: what a strategy that adapts learns from."""

from __future__ import annotations

import math
from dataclasses import dataclass

ROUNDING = 2e-7
"""Relative error of a loss in float32."""


@dataclass(frozen=True)
class Outcome:
    """What the step of one group did; fields may be added.

    Attributes:
        step: Number of steps that were taken before this one.
        lr: Factor on the group's step, with what clips left of it.
        loss_before: Loss at which the step was computed.
        loss_after: Loss of the same batch after all groups moved; only if some strategy requires `"loss_after"`.
        predicted_decrease: Decrease of the loss that this group's quadratic model predicted, in loss.
        total_predicted_decrease: Sum of the predicted decreases of all groups: what the decrease of the loss, to which
            all of them contribute, is compared with.
        step_norm: Euclidean norm of the group's step, without `lr`, in param.
        directions: Number of directions K; of all that there can be, min(R, P), where the step was solved for without.
        taken: Part of the step that was kept: 1, less where it was shortened, 0 where it was undone since it raised the
            loss. All else tells of the whole step.
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

    @property
    def actual_decrease(self) -> float:
        """Decrease of the loss that all groups together achieved; NaN if the loss after the step is not known."""
        return math.nan if self.loss_after is None else self.loss_before - self.loss_after

    @property
    def is_rounding(self) -> bool:
        """Whether predicted and actual decrease are both below the rounding of a float32 loss: the ratio is noise."""
        bound = ROUNDING * abs(self.loss_before)
        return abs(self.total_predicted_decrease) <= bound and abs(self.actual_decrease) <= bound  # NaN is not

    @property
    def ratio(self) -> float:
        """Actual over predicted decrease of the loss, by all groups; 1 where the quadratic model is exact.

        NaN if either is not a number, or if no decrease was predicted: the comparison says nothing good then.
        """
        predicted = self.total_predicted_decrease
        return self.actual_decrease / predicted if predicted > 0 else math.nan

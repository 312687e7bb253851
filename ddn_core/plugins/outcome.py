"""What a step did: what a strategy that adapts learns from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """What the step of one group did; fields may be added.

    Attributes:
        step: Number of steps that were taken before this one.
        lr: Factor on the group's step.
        loss_before: Loss at which the step was computed.
        loss_after: Loss of the same batch after all groups moved; only if some strategy requires `"loss_after"`.
        predicted_decrease: Decrease of the loss that this group's quadratic model predicted, in loss.
        step_norm: Euclidean norm of the group's step, without `lr`, in param.
        directions: Number of directions K.
    """

    step: int
    lr: float
    loss_before: float
    loss_after: float | None
    predicted_decrease: float
    step_norm: float
    directions: int

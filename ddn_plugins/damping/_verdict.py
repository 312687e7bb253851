"""What the ratio of actual to predicted decrease says of a step: what adaptive dampings have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ddn_core.api import Outcome


def verdict(outcome: Outcome, bad: float, good: float) -> Literal["good", "bad", "neither"]:
    """Return whether the quadratic model was good enough to trust it further, or bad enough to trust it less.

    A ratio that is no number is bad. A step that is too short to be seen in a float32 loss is good: longer ones have to
    show. Where nothing was moved, it is neither.

    Args:
        outcome: What the step did.
        bad: Ratio below which it was bad.
        good: Ratio above which it was good.
    """
    if outcome.total_predicted_decrease == 0:
        return "neither"
    if outcome.is_rounding or outcome.ratio > good:
        return "good"
    return "neither" if outcome.ratio >= bad else "bad"  # NaN is not

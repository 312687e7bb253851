"""Quality of the quadratic model, judged by the ratio of actual to predicted decrease; for adaptive dampings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ddn_core.api import Outcome


def model_quality(outcome: Outcome, bad: float, good: float) -> Literal["good", "bad", "neither"]:
    """Return the quality of the quadratic model in a step: "good" to trust it further, "bad" to trust it less.

    A ratio of NaN is bad. A step whose change of the loss is below the rounding error of float32 is good, so that
    longer steps follow. A step that moved nothing is neither.

    Args:
        outcome: Outcome of the step.
        bad: Ratio below which the quality is bad.
        good: Ratio above which the quality is good.
    """
    if outcome.total_predicted_decrease == 0:
        return "neither"
    if outcome.is_rounding or outcome.ratio > good:
        return "good"
    return "neither" if outcome.ratio >= bad else "bad"  # false for NaN

"""Rules that end a run before its last epoch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from ddn_core.plugins.messages import TableModel
from ddn_core.plugins.units import Unit


class StopConfig(TableModel):
    """Rules that end a run before its last epoch: the first that is met does.

    All rules are checked at evaluations, and `seconds` after every step.
    """

    loss: Annotated[float, Unit("loss")] | None = Field(
        None,
        description="Stop if the training loss is at most this: the mean over the steps since the last evaluation, or, "
        "with `evaluate_training`, the loss of all training data.",
    )
    gradient_norm: Annotated[PositiveFloat, Unit("loss/param")] | None = Field(
        None,
        description="Stop if the Euclidean norm of the gradient is at most this: the mean over the steps since the "
        "last evaluation.",
    )
    step_norm: Annotated[PositiveFloat, Unit("param")] | None = Field(
        None,
        description="Stop if the Euclidean norm of the steps, with `lr`, is at most this: the mean over the steps "
        "since the last evaluation.",
    )
    seconds: Annotated[PositiveFloat, Unit("1")] | None = Field(
        None, description="Stop after this number of seconds of training and evaluation."
    )
    patience: PositiveInt | None = Field(
        None, description="Stop after this number of evaluations in a row without a better value of `metric`."
    )
    metric: str = Field("test_loss", description="Loss or test metric, for `patience`.")
    maximize: bool | None = Field(
        None,
        description="Larger values of `metric` are better, for `patience`; by default smaller ones for a loss, and "
        "larger ones for any other metric.",
    )
    min_change: Annotated[NonNegativeFloat, Unit("1")] = Field(
        0.0, description="Change of `metric`, beyond the best value, that counts as better, for `patience`."
    )

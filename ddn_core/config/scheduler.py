"""Schedules of the learning rate: the schedulers of torch that a config can select."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from ddn_core.plugins.messages import TableModel
from ddn_core.plugins.units import Unit


class SchedulerConfig(TableModel):
    """A scheduler of torch; its fields have the names of torch's arguments."""

    every: Literal["epoch", "step"] = Field("epoch", description="Unit in which the scheduler counts.")

    def options(self) -> dict[str, Any]:
        """Return the arguments of torch's class."""
        return self.model_dump(exclude={"kind", "every"}, exclude_none=True)


class StepDecay(SchedulerConfig):
    """Multiply the learning rate by a factor at regular intervals, `torch.optim.lr_scheduler.StepLR`."""

    kind: Literal["step"] = Field(description="Multiply by a factor at regular intervals.")
    step_size: PositiveInt = Field(description="Number of epochs or steps in an interval.")
    gamma: Annotated[PositiveFloat, Unit("1")] = Field(
        0.1, description="Factor on the learning rate after each interval."
    )


class ExponentialDecay(SchedulerConfig):
    """Multiply the learning rate by a factor after every epoch or step, `torch.optim.lr_scheduler.ExponentialLR`."""

    kind: Literal["exponential"] = Field(description="Multiply by a factor after every epoch or step.")
    gamma: Annotated[PositiveFloat, Unit("1")] = Field(description="Factor on the learning rate.")


class CosineDecay(SchedulerConfig):
    """Decrease the learning rate along half a period of a cosine, `torch.optim.lr_scheduler.CosineAnnealingLR`."""

    kind: Literal["cosine"] = Field(description="Decrease along half a period of a cosine.")
    T_max: PositiveInt = Field(description="Number of epochs or steps until the end.")
    eta_min: Annotated[NonNegativeFloat, Unit("1")] = Field(0.0, description="Learning rate at the end.")


class LinearChange(SchedulerConfig):
    """Change the learning rate linearly, as a warm-up or a decay, `torch.optim.lr_scheduler.LinearLR`."""

    kind: Literal["linear"] = Field(description="Change linearly, as a warm-up or a decay.")
    start_factor: Annotated[float, Field(gt=0, le=1), Unit("1")] = Field(
        1 / 3, description="Factor on the learning rate at the start."
    )
    end_factor: Annotated[float, Field(ge=0, le=1), Unit("1")] = Field(
        1.0, description="Factor on the learning rate at the end."
    )
    total_iters: PositiveInt = Field(5, description="Number of epochs or steps until the end.")


Scheduler = Annotated[StepDecay | ExponentialDecay | CosineDecay | LinearChange, Field(discriminator="kind")]

"""Schedules of the learning rate: torch's schedulers, as a config can name them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from ddn_core.plugins.messages import TableModel
from ddn_core.plugins.units import Unit


class SchedulerConfig(TableModel):
    """A scheduler of torch; fields have the names of torch's arguments."""

    every: Literal["epoch", "step"] = Field("epoch", description="What it counts.")

    def options(self) -> dict[str, Any]:
        """Return the arguments for torch's class."""
        return self.model_dump(exclude={"kind", "every"}, exclude_none=True)


class StepDecay(SchedulerConfig):
    """Lower the learning rate by a factor at regular times, `torch.optim.lr_scheduler.StepLR`."""

    kind: Literal["step"] = Field(description="Lower by a factor at regular times.")
    step_size: PositiveInt = Field(description="Number of epochs or steps between two times.")
    gamma: Annotated[PositiveFloat, Unit("1")] = Field(0.1, description="Factor.")


class ExponentialDecay(SchedulerConfig):
    """Multiply the learning rate by a factor each time, `torch.optim.lr_scheduler.ExponentialLR`."""

    kind: Literal["exponential"] = Field(description="Multiply by a factor each time.")
    gamma: Annotated[PositiveFloat, Unit("1")] = Field(description="Factor.")


class CosineDecay(SchedulerConfig):
    """Lower the learning rate along a cosine, `torch.optim.lr_scheduler.CosineAnnealingLR`."""

    kind: Literal["cosine"] = Field(description="Lower along half a period of a cosine.")
    T_max: PositiveInt = Field(description="Number of epochs or steps until the end.")
    eta_min: Annotated[NonNegativeFloat, Unit("1")] = Field(0.0, description="Learning rate at the end.")


class LinearChange(SchedulerConfig):
    """Change the learning rate linearly: a warm-up, or a decay, `torch.optim.lr_scheduler.LinearLR`."""

    kind: Literal["linear"] = Field(description="Change linearly: a warm-up, or a decay.")
    start_factor: Annotated[float, Field(gt=0, le=1), Unit("1")] = Field(1 / 3, description="Factor at the start.")
    end_factor: Annotated[float, Field(ge=0, le=1), Unit("1")] = Field(1.0, description="Factor at the end.")
    total_iters: PositiveInt = Field(5, description="Number of epochs or steps until the end.")


Scheduler = Annotated[StepDecay | ExponentialDecay | CosineDecay | LinearChange, Field(discriminator="kind")]

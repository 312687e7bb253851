"""How steps are made of what the engine computes: settings of a group, and of what is done with a bad step."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from ddn_core.plugins.messages import TableModel
from ddn_core.plugins.units import Unit

Fraction = Annotated[float, Field(ge=0, lt=1), Unit("1")]


class Momentum(TableModel):
    """Momentum, which may look ahead."""

    model_config = ConfigDict(
        json_schema_extra={  # what the validator below says
            "if": {"properties": {"nesterov": {"const": True}}, "required": ["nesterov"]},
            "then": {"properties": {"momentum": {"exclusiveMinimum": 0}}, "required": ["momentum"]},
        }
    )

    momentum: Fraction = Field(0.0, description="Factor μ of heavy-ball momentum: the buffer is μ times itself + step.")
    nesterov: bool = Field(False, description="Whether momentum looks ahead: step + μ times the buffer is made.")

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> Self:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov is true, but momentum is 0; set momentum, such as 0.9")
        return self


class GroupSettings(Momentum):
    """What a group makes of its damped Newton step."""

    lr: Annotated[PositiveFloat, Unit("1")] = Field(1.0, description="Factor on the step.")
    weight_decay: Annotated[NonNegativeFloat, Unit("loss/param²")] = Field(
        0.0, description="Coefficient w of the L2 weight decay: `w/2 ‖θ‖²` enters gradient and curvature alike."
    )
    decoupled_weight_decay: Annotated[NonNegativeFloat, Unit("1")] = Field(
        0.0, description="Fraction of the parameters that is taken off in each step, times `lr` (as in AdamW)."
    )
    max_step_norm: Annotated[PositiveFloat, Unit("param")] | None = Field(
        None, description="Euclidean norm that `lr` times the step is shortened to; no limit by default."
    )
    max_kl: Annotated[PositiveFloat, Unit("loss")] | None = Field(
        None,
        description="What `½ sᵀGs` of `lr` times the step s is limited to, by shortening it: for cross-entropy the "
        "Kullback-Leibler divergence between the model's outputs before and after, to second order. No limit by "
        "default.",
    )
    memory: Fraction = Field(
        0.0, description="Factor μ of SPRING's memory: damping draws the step to μ times the previous one, not to zero."
    )
    rest: bool = Field(
        False,
        description="Whether what of the gradient lies in no chosen direction is followed too, divided by the largest "
        "damping. With all directions and one damping for all, the step is `-(G + δ I)⁻¹ g` then, by a solve, with "
        "Monte-Carlo samples and sub-samples too.",
    )
    every: PositiveInt = Field(
        1,
        description="Number of steps that directions and dampings serve, along fresh gradients. Above 1 the K "
        "eigenvectors are held, as large as K times the parameters.",
    )


class StepConfig(TableModel):
    """What is done with a step that raises the loss, or is not finite."""

    on_increase: Literal["keep", "undo", "shorten", "damp"] = Field(
        "keep",
        description="What is done with a step after which the loss of the same batch is larger: it is kept; undone; "
        "shortened and tried again; or dampings are asked for anew, after they observed the failure. The loss is "
        "evaluated after each try, by `step(closure)`.",
    )
    attempts: PositiveInt = Field(
        5, description="Number of further tries with `shorten` and `damp`, after which the step is undone."
    )
    shrink: Annotated[float, Field(gt=0, lt=1), Unit("1")] = Field(
        0.5, description="Factor on the length of the step from try to try, with `shorten`."
    )
    on_nonfinite: Literal["error", "skip"] = Field(
        "error",
        description="What is done where the loss or a step is not finite: an error, or no step of any group, which "
        "`skipped_steps` counts.",
    )

"""How steps are made of what the engine computes: settings of a group, and of what is done with a bad step."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AliasChoices, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from ddn_core.plugins.messages import TableModel, located
from ddn_core.plugins.units import Unit

Fraction = Annotated[float, Field(ge=0, lt=1), Unit("1")]

FORMER_NAME = "rest"
"""Other name of the setting `include_complement`, for configs that were written before the setting had this name."""


NESTEROV_NEEDS_MOMENTUM: dict[str, Any] = {
    "if": {"properties": {"nesterov": {"const": True}}, "required": ["nesterov"]},
    "then": {"properties": {"momentum": {"exclusiveMinimum": 0}}, "required": ["momentum"]},
}
"""JSON Schema of the rule that `Momentum` checks."""


class Momentum(TableModel):
    """Momentum, which may look ahead."""

    model_config = ConfigDict(json_schema_extra=NESTEROV_NEEDS_MOMENTUM)

    momentum: Fraction = Field(0.0, description="Factor μ of heavy-ball momentum: the buffer is μ times itself + step.")
    nesterov: bool = Field(False, description="Whether momentum looks ahead: step + μ times the buffer is made.")

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> Self:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov is true, but momentum is 0; set momentum, such as 0.9")
        return self


def _add_former_name(schema: dict[str, Any]) -> None:
    """Extend the JSON Schema of a group: either name of `include_complement` is valid, both together are not."""
    schema.update(NESTEROV_NEEDS_MOMENTUM)
    setting = schema["properties"]["include_complement"]
    schema["properties"][FORMER_NAME] = {
        **{key: value for key, value in setting.items() if key != "title"},
        "description": "Former name of `include_complement`.",
        "deprecated": True,
    }
    schema["not"] = {"required": ["include_complement", FORMER_NAME]}


class GroupSettings(Momentum):
    """Settings that turn a group's damped Newton step into the update of its parameters."""

    model_config = ConfigDict(json_schema_extra=_add_former_name)

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
    include_complement: bool = Field(
        False,
        validation_alias=AliasChoices("include_complement", FORMER_NAME),
        description="Also follow the part of the gradient outside the chosen directions (their orthogonal complement), "
        "divided by the largest damping. With all directions and the same damping for each, a linear solve then gives "
        "the step `-(G + δ I)⁻¹ g`, also with Monte-Carlo samples and with sub-samples. `rest` is another name of this "
        "setting.",
    )
    every: PositiveInt = Field(
        1,
        description="Number of steps that directions and dampings serve, along fresh gradients. Above 1 the K "
        "eigenvectors are held, as large as K times the parameters.",
    )

    @model_validator(mode="before")
    @classmethod
    def _one_name_at_a_time(cls, value: Any) -> Any:
        if isinstance(value, dict) and FORMER_NAME in value and "include_complement" in value:
            message = f"{FORMER_NAME} is the former name of include_complement, which this table also has; delete it"
            raise located(message, FORMER_NAME, value[FORMER_NAME])
        return value


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

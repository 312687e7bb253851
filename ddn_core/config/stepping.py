"""Settings of steps: those of a parameter group, and the rules for steps that raise the loss or are not finite."""

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
    """Heavy-ball or Nesterov momentum."""

    model_config = ConfigDict(json_schema_extra=NESTEROV_NEEDS_MOMENTUM)

    momentum: Fraction = Field(0.0, description="Factor μ of momentum; each step s turns the buffer b into μ b + s.")
    nesterov: bool = Field(False, description="Use Nesterov momentum: the update is s + μ b, not b.")

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> Self:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov is true, but momentum is 0; set momentum, such as momentum = 0.9")
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
        0.0,
        description="Coefficient w of L2 weight decay: `w/2 ‖θ‖²` is added to the loss, its gradient and curvature.",
    )
    decoupled_weight_decay: Annotated[NonNegativeFloat, Unit("1")] = Field(
        0.0, description="Coefficient d of decoupled weight decay, as in AdamW: a step subtracts `lr · d · θ`."
    )
    max_step_norm: Annotated[PositiveFloat, Unit("param")] | None = Field(
        None,
        description="Largest Euclidean norm of `lr` times the step; longer ones are shortened. No limit by default.",
    )
    max_relative_norm: Annotated[PositiveFloat, Unit("1")] | None = Field(
        None,
        description="Largest Euclidean norm of `lr` times the step, in multiples of the norm of the group's "
        "parameters; longer ones are shortened. Parameters whose root mean square is below 0.03 count as such of 0.03. "
        "No limit by default.",
    )
    max_kl: Annotated[PositiveFloat, Unit("loss")] | None = Field(
        None,
        description="Largest value of `½ sᵀGs`, with s = `lr` times the step, which is shortened if needed. For "
        "cross-entropy this is, to second order, the Kullback-Leibler divergence between the model's outputs before "
        "and after the step. No limit by default.",
    )
    memory: Fraction = Field(
        0.0,
        description="Factor μ of SPRING's memory: damping pulls the step to μ times the previous step, not to zero.",
    )
    averaging: Fraction | Literal["auto"] = Field(
        0.0,
        description="Factor β of an exponential average: the parameters are the average of an iterate, which makes the "
        "steps from where it is. A step moves the parameters by `1 - β` of the way to the new iterate; its gradient is "
        "that at the iterate, by the quadratic model. In step t of the optimizer, from 0, β is at most `t / (t + 2)`. "
        "`auto`: `1 - N / 640` for N samples, from 0.5 to 0.97. 0, the default, for none.",
    )
    max_decrease: Annotated[PositiveFloat, Unit("1")] | None = Field(
        None,
        description="Largest decrease that the slope may promise along a step, in multiples of the loss, for losses "
        "that are never negative: the dampings are multiplied by 4 until it is kept. No limit by default.",
    )
    include_complement: bool = Field(
        False,
        validation_alias=AliasChoices("include_complement", FORMER_NAME),
        description="Also follow the part of the gradient outside the chosen directions (their orthogonal complement), "
        "divided by the largest damping. With all directions and the same damping for each, a linear solve then gives "
        "the step `-(G + δ I)⁻¹ g`, also with Monte-Carlo samples and with sub-samples. `rest` is another name of this "
        "setting.",
    )
    gradient: Literal["captured", "grad"] = Field(
        "captured",
        description="Gradient of the step. `captured`: that of the loss, from the backward pass; a `.grad` that was "
        "changed since is an error. `grad`: `.grad` as it is at the step, such as one that was clipped, or that has a "
        "penalty added. The directional gradients of single samples are those of the loss in both cases.",
    )
    every: PositiveInt = Field(
        1,
        description="Number of steps for which directions and dampings are used, each with a fresh gradient. Above 1, "
        "the K eigenvectors stay in memory, K times the size of the parameters.",
    )

    @model_validator(mode="before")
    @classmethod
    def _one_name_at_a_time(cls, value: Any) -> Any:
        if isinstance(value, dict) and FORMER_NAME in value and "include_complement" in value:
            message = f"{FORMER_NAME} is the former name of include_complement, which this table also has; delete it"
            raise located(message, FORMER_NAME, value[FORMER_NAME])
        return value

    @model_validator(mode="after")
    def _one_memory_of_steps(self) -> Self:
        if self.averaging and (self.memory or self.momentum):
            other = "memory" if self.memory else "momentum"
            raise ValueError(
                f"averaging and {other} are both set, but an averaged iterate needs no {other}; delete {other}, or set "
                "averaging = 0"
            )
        return self


class StepConfig(TableModel):
    """Rules for a step that raises the loss or is not finite, and for a search of the step's length."""

    on_increase: Literal["keep", "undo", "shorten", "damp", "search"] = Field(
        "keep",
        description="Action after a step that raises the loss of the same batch: `keep` the step, `undo` it, `shorten` "
        "it and try again, or `damp`: let the dampings observe the failure, and try a step with their new values. "
        "`search` evaluates several lengths of every step, also of one that lowers the loss, and keeps the best. "
        "Except for `keep`, `step(closure)` evaluates the loss after each try.",
    )
    attempts: PositiveInt = Field(
        5,
        le=1000,
        description="Number of further tries for `shorten` and `damp`, after which the step is undone. `search` always "
        "makes all of them.",
    )
    shrink: Annotated[float, Field(gt=0, lt=1), Unit("1")] = Field(
        0.5, description="Factor on the length of the step from one try to the next, for `shorten` and `search`."
    )
    on_nonfinite: Literal["error", "skip", "back"] = Field(
        "error",
        description="Action if the loss or a step is not finite: raise an `error`, `skip` the step of all groups and "
        "count it in `skipped_steps`, or go `back` to the parameters before the last step, of which the optimizer "
        "keeps a copy, and count the step as skipped, too. A loss that is not finite there, either, is an error.",
    )
    without_closure: Literal["error", "keep"] = Field(
        "error",
        description="Action if `on_increase` needs the loss after the step, and `step()` is called without a closure: "
        "raise an `error`, or `keep` the step as it is.",
    )

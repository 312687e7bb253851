"""What a config file may say; field descriptions are the reference."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from ddn_core.config.first_order import Baseline, Fallback
from ddn_core.config.plugins import PluginsConfig
from ddn_core.config.scheduler import Scheduler
from ddn_core.config.stepping import GroupSettings, StepConfig
from ddn_core.plugins.messages import TableModel
from ddn_core.plugins.reference import AnyCriterion, AnyDamping, AnyProblem
from ddn_core.plugins.units import Unit


def _distinct(indices: list[int] | None) -> list[int] | None:
    if indices is not None and len(set(indices)) != len(indices):
        raise ValueError("a number is repeated; name each once")
    return indices


SampleIndices = Annotated[
    list[NonNegativeInt] | None,
    Field(min_length=1, json_schema_extra={"uniqueItems": True}),
    AfterValidator(_distinct),
]


Seed = Annotated[int, Field(ge=0, lt=2**63)]  # what torch's generators take


class CurvatureConfig(TableModel):
    """Which curvature the steps use."""

    model_config = ConfigDict(
        json_schema_extra={  # what the validator below says
            "if": {"properties": {"kind": {"const": "ggn-mc"}}, "required": ["kind"]},
            "else": {"properties": {"mc_samples": {"type": "null"}}},
        }
    )

    kind: Literal["ggn", "ggn-mc"] = Field(
        "ggn", description="`ggn`: exact generalized Gauss-Newton matrix; `ggn-mc`: its Monte-Carlo estimate."
    )
    mc_samples: PositiveInt | None = Field(
        None, description="Number of Monte-Carlo samples for each data sample, with `ggn-mc` only; 1 by default."
    )
    seed: Seed | None = Field(
        None, description="Seed of the Monte-Carlo samples; by default they come from torch's own generator."
    )
    subsampling_grad: SampleIndices = Field(
        None, description="Indices of the samples of a batch that the gradient is taken over; all by default."
    )
    subsampling_ggn: SampleIndices = Field(
        None, description="Indices of the samples of a batch that the GGN is taken over; all by default."
    )
    memory_budget: PositiveInt | Literal["auto"] | None = Field(
        None,
        description="Bytes that curvature may take beyond the gradient's memory: work is sliced so as to stay below, "
        "or refused before it begins. `auto` for what is free; no limit by default.",
    )
    subsampling_lambdas: SampleIndices = Field(
        None,
        description="Indices of the samples that directional curvatures are taken over; those of the GGN by default.",
    )

    @model_validator(mode="after")
    def _samples_go_with_kind(self) -> Self:
        if self.kind == "ggn" and self.mc_samples is not None:
            raise ValueError("mc_samples is given, but kind is 'ggn', which draws none; use kind = 'ggn-mc'")
        return self

    @property
    def sample_count(self) -> int:
        """Number of Monte-Carlo samples, 0 for the exact GGN."""
        return 0 if self.kind == "ggn" else self.mc_samples or 1


class GroupConfig(GroupSettings):
    """A parameter group: its block of the GGN is used, with its own criterion and damping."""

    params: list[str] = Field(
        min_length=1,
        description="Globs on parameter names; a parameter belongs to the first group that names it.",
    )
    criterion: AnyCriterion = Field(description="Chooses the directions; a table with a `kind`.")
    damping: AnyDamping = Field(description="Damps the chosen directions; a table with a `kind`.")


class TrainingConfig(TableModel):
    """How `ddn train` trains."""

    epochs: PositiveInt = Field(10, description="Number of passes over the training data.")
    seed: Seed = Field(0, description="Seed of initialization, data split and data order.")
    dtype: Literal["float32", "float64"] = Field("float32", description="Dtype of parameters and data.")
    device: str = Field("cpu", pattern=r"^(cpu|cuda(:\d+)?)$", description="`cpu`, `cuda`, or `cuda:1`, ...")
    scheduler: Scheduler | None = Field(
        None, description="Schedule of the learning rate: a table with a `kind`; constant by default."
    )
    evaluate_every: PositiveInt | None = Field(
        None, description="Number of steps between evaluations, beside those at the end of each epoch."
    )
    evaluate_training: bool = Field(
        False, description="Whether an evaluation also takes the loss of all training data, as the model is then."
    )
    checkpoint_seconds: Annotated[NonNegativeFloat, Unit("1")] = Field(
        10.0, description="Seconds between checkpoints, each written after a step; 0 for one after every step."
    )


class RecordConfig(TableModel):
    """Which steps of a run are recorded: the curvature of each group, for `ddn replay` and `ddn report`."""

    steps: SampleIndices = Field(
        None,
        description="Numbers of the steps, from 0; by default 0, 1, 2, 5, 10, 20, 50, 100, ... and the last one.",
    )
    directions: PositiveInt | None = Field(
        None, description="Number of leading directions that are recorded; by default as many as fit."
    )
    megabytes: Annotated[PositiveFloat, Unit("1")] = Field(
        64.0,
        description="Most megabytes that a trace takes. A step takes an eighth of it at most: beyond that, directions "
        "with small eigenvalues are left out. Steps that do not fit any more are left out, and counted.",
    )


class Config(TableModel):
    """A config file."""

    model_config = ConfigDict(
        json_schema_extra={  # what the validator below says
            "if": {"properties": {"optimizer": {"type": "object"}}, "required": ["optimizer"]},
            "then": {
                "properties": {"groups": {"maxItems": 0}, "fallback": {"type": "null"}, "record": {"type": "null"}}
            },
            "else": {"properties": {"groups": {"minItems": 1}}, "required": ["groups"]},
        }
    )

    plugins: PluginsConfig = Field(PluginsConfig(), description="Which plugins may be used, and which are needed.")
    problem: AnyProblem | None = Field(None, description="What `ddn train` trains; a table with a `kind`.")
    training: TrainingConfig = Field(TrainingConfig(), description="How `ddn train` trains.")
    curvature: CurvatureConfig = Field(CurvatureConfig(), description="Which curvature the steps use.")
    step: StepConfig = Field(StepConfig(), description="What is done with a step that raises the loss.")
    record: RecordConfig | None = Field(
        None, description="Which steps are recorded, for `ddn replay` and `ddn report`; none by default."
    )
    groups: list[GroupConfig] = Field([], description="The parameter groups, in order.")
    fallback: Fallback | None = Field(
        None,
        description="Optimizer of torch for the parameters that no group takes: a table with `kind` `sgd` or `adamw` "
        "and its arguments. Without it, such a parameter is an error.",
    )
    optimizer: Baseline | None = Field(
        None,
        description="Optimizer of torch in place of ours, as a baseline: a table with `kind` `adam`, `adamw`, `sgd` or "
        "`lbfgs` and its arguments. There are no groups then.",
    )
    schema_file: str | None = Field(
        None, alias="$schema", description="The JSON Schema of this file, for editors; not read."
    )
    provenance: dict[str, Any] | None = Field(
        None, description="Versions that a resolved config was written with; not read."
    )

    @model_validator(mode="after")
    def _groups_or_optimizer(self) -> Self:
        if self.optimizer is None and not self.groups:
            raise ValueError("groups: are missing; add a [[groups]] table, or an [optimizer] table for one of torch's")
        if self.optimizer is not None and (self.groups or self.fallback is not None):
            raise ValueError("optimizer: one of torch takes all parameters; leave out groups and fallback, or it")
        if self.optimizer is not None and self.record is not None:
            raise ValueError("record: an optimizer of torch has no curvature to record; leave it out")
        return self

"""Schema of a config file; the descriptions of the fields are the reference."""

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
from ddn_core.config.presets import DEFAULT, PRESETS, PresetName, rules_with_defaults, with_defaults
from ddn_core.config.scheduler import Scheduler
from ddn_core.config.stepping import GroupSettings, StepConfig
from ddn_core.config.stopping import StopConfig
from ddn_core.plugins.messages import TableModel
from ddn_core.plugins.reference import AnyCriterion, AnyDamping, AnyProblem
from ddn_core.plugins.units import Unit


def _distinct(indices: list[int] | None) -> list[int] | None:
    if indices is not None and len(set(indices)) != len(indices):
        raise ValueError("a number is repeated; list each number once")
    return indices


SampleIndices = Annotated[
    list[NonNegativeInt] | None,
    Field(min_length=1, json_schema_extra={"uniqueItems": True}),
    AfterValidator(_distinct),
]


Seed = Annotated[int, Field(ge=0, lt=2**63)]  # the range of seeds that torch's generators accept


class CurvatureConfig(TableModel):
    """The curvature matrix, and the samples that it is computed from."""

    model_config = ConfigDict(
        json_schema_extra={  # the rule of the validator below
            "if": {"properties": {"kind": {"const": "ggn-mc"}}, "required": ["kind"]},
            "else": {"properties": {"mc_samples": {"type": "null"}}},
        }
    )

    kind: Literal["ggn", "ggn-mc", "ggn-aligned"] = Field(
        "ggn",
        description="`ggn`: exact generalized Gauss-Newton matrix; `ggn-mc`: its Monte-Carlo estimate; `ggn-aligned`: "
        "one column for each sample, along its gradient, with the curvature of the GGN along it.",
    )
    mc_samples: PositiveInt | None = Field(
        None, le=10**6, description="Number of Monte-Carlo samples per data sample, only for `ggn-mc`; 1 by default."
    )
    seed: Seed | None = Field(
        None, description="Seed of the Monte-Carlo samples; by default they are drawn from torch's global generator."
    )
    subsampling_grad: SampleIndices = Field(
        None, description="Indices of the samples in a batch that the gradient is computed from; all by default."
    )
    subsampling_ggn: SampleIndices = Field(
        None, description="Indices of the samples in a batch that the GGN is computed from; all by default."
    )
    memory_budget: PositiveInt | Literal["auto"] | None = Field(
        "auto",
        description="Largest number of bytes that curvature may use in addition to the gradient's memory. The engine "
        "slices its work to stay below this number, or raises an error before it begins if it cannot. `auto`, the "
        "default, stands for the memory that is free.",
    )
    subsampling_lambdas: SampleIndices = Field(
        None,
        description="Indices of the samples for the directional curvatures; by default those of the GGN.",
    )

    @model_validator(mode="after")
    def _samples_go_with_kind(self) -> Self:
        if self.kind != "ggn-mc" and self.mc_samples is not None:
            raise ValueError(
                f"mc_samples is set, but kind {self.kind!r} draws no Monte-Carlo samples; use kind = 'ggn-mc'"
            )
        return self


class GroupConfig(GroupSettings):
    """A parameter group: a block of the GGN with its own criterion and damping."""

    params: list[str] = Field(
        min_length=1,
        description="Globs on parameter names; a parameter belongs to the first group with a glob that matches it.",
    )
    criterion: AnyCriterion = Field(description="Criterion that chooses the directions; a table with a `kind`.")
    damping: AnyDamping = Field(description="Damping of the chosen directions; a table with a `kind`.")


class TrainingConfig(TableModel):
    """Settings of `ddn train`."""

    epochs: PositiveInt = Field(10, description="Number of passes over the training data.")
    seed: Seed = Field(0, description="Seed of the initial parameters, the data split and the order of the data.")
    dtype: Literal["float32", "float64"] = Field("float32", description="Dtype of parameters and data.")
    device: str = Field("cpu", pattern=r"^(cpu|cuda(:\d+)?)$", description="`cpu`, `cuda`, or `cuda:1`, ...")
    scheduler: Scheduler | None = Field(
        None, description="Schedule of the learning rate: a table with a `kind`; constant by default."
    )
    evaluate_every: PositiveInt | None = Field(
        None, description="Number of steps between evaluations, in addition to those at the end of each epoch."
    )
    evaluate_training: bool = Field(False, description="Also compute the loss of all training data in each evaluation.")
    checkpoint_seconds: Annotated[NonNegativeFloat, Unit("1")] = Field(
        10.0, description="Seconds between checkpoints, which are written after steps; 0 writes one after every step."
    )
    on_divergence: Literal["stop", "continue"] = Field(
        "stop",
        description="Action if the run diverges: `stop` it, or `continue` it. A run has diverged as long as three of "
        "its last five losses are not finite or above `divergence_factor` times the first losses. An error because of "
        "a loss or a step that is not finite always stops it.",
    )
    divergence_factor: Annotated[float, Field(gt=1), Unit("1")] = Field(
        10.0, description="Multiple of the first losses past which a run has diverged."
    )
    stop: StopConfig = Field(StopConfig(), description="Rules that end the run before its last epoch; none by default.")


class RecordConfig(TableModel):
    """Recording of the curvature of some steps, for `ddn replay` and `ddn report`."""

    steps: SampleIndices = Field(
        None,
        description="Numbers of the recorded steps, from 0; by default 0, 1, 2, 5, 10, 20, 50, ... and the last step.",
    )
    directions: PositiveInt | None = Field(
        None, description="Number of leading directions to record; by default as many as fit."
    )
    megabytes: Annotated[PositiveFloat, Unit("1")] = Field(
        64.0,
        description="Largest size of a trace in megabytes. A step uses at most an eighth of it; directions with the "
        "smallest eigenvalues are left out to fit. Steps that do not fit any more are left out and counted.",
    )


class Config(TableModel):
    """A config file."""

    model_config = ConfigDict(
        json_schema_extra={  # the rule of the validator below
            "if": {"properties": {"optimizer": {"type": "object"}}, "required": ["optimizer"]},
            "then": {
                "properties": {"groups": {"maxItems": 0}, "fallback": {"type": "null"}, "record": {"type": "null"}}
            },
            "else": {"if": {"required": ["preset"]}, "then": {"properties": {"groups": {"maxItems": 0}}}},
        }
    )

    plugins: PluginsConfig = Field(
        PluginsConfig(), description="Plugins that are allowed, and distributions that are required."
    )
    problem: AnyProblem | None = Field(None, description="Problem that `ddn train` trains; a table with a `kind`.")
    training: TrainingConfig = Field(TrainingConfig(), description="Settings of `ddn train`.")
    curvature: CurvatureConfig = Field(CurvatureConfig(), description="Curvature that the steps use.")
    step: StepConfig = Field(StepConfig(), description="Rules for a step that raises the loss or is not finite.")
    record: RecordConfig | None = Field(
        None, description="Recording of steps for `ddn replay` and `ddn report`; nothing is recorded by default."
    )
    preset: PresetName | None = Field(
        None,
        description="Name of a preset, which stands for groups, curvature and step rules, in a config without groups: "
        "`averaged`, the default, needs no tuning; `least-squares` is for full batches. Settings of curvature and step "
        "that the config has take precedence.",
    )
    groups: list[GroupConfig] = Field(
        [], description="The parameter groups, in order; by default the one group of the preset."
    )
    fallback: Fallback | None = Field(
        None,
        description="Optimizer of torch for parameters outside of all groups: a table with `kind` `sgd` or `adamw` and "
        "its arguments. Without it, such a parameter is an error.",
    )
    optimizer: Baseline | None = Field(
        None,
        description="Optimizer of torch in place of damped Newton steps, as a baseline: a table with `kind` `adam`, "
        "`adamw`, `sgd` or `lbfgs` and its arguments. The config then has no groups.",
    )
    schema_file: str | None = Field(
        None, alias="$schema", description="Path of the JSON Schema of this file, for editors; ignored."
    )
    provenance: dict[str, Any] | None = Field(
        None, description="Versions of the software that wrote a resolved config; ignored."
    )

    @model_validator(mode="before")
    @classmethod
    def _write_preset_out(cls, value: Any) -> Any:
        """Put the tables of the preset in place of groups that are not there."""
        if not isinstance(value, dict) or value.get("optimizer") is not None or value.get("groups", []) != []:
            return value
        tables = PRESETS.get(value.get("preset") or DEFAULT)
        if tables is None:
            return value  # the field's own error says which names there are
        merged = {
            "curvature": with_defaults(value.get("curvature"), tables["curvature"]),
            "step": rules_with_defaults(value.get("step"), tables["step"]),
        }
        return {**value, **merged, "groups": [dict(group) for group in tables["groups"]], "preset": None}

    @model_validator(mode="after")
    def _groups_or_optimizer(self) -> Self:
        if self.preset is not None:
            other = "groups" if self.groups else "optimizer"
            raise ValueError(f"preset: it stands for groups, but the config has {other} too; delete one of the two")
        if self.optimizer is not None and (self.groups or self.fallback is not None):
            raise ValueError("optimizer: it moves all parameters; delete groups and fallback, or delete optimizer")
        if self.optimizer is not None and self.record is not None:
            raise ValueError("record: an optimizer of torch has no curvature to record; delete record")
        return self

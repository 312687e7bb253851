"""The index of a trace: all but the tensors, as one JSON file in the same folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, field_validator
from pydantic_core import PydanticCustomError

from ddn_core.api import Outcome
from ddn_core.errors import ArgumentError
from ddn_core.files import write_atomically
from ddn_core.foreign import Count, Name, content_of, parsed

INDEX = "index.json"
FORMAT: Literal["ddn trace 1"] = "ddn trace 1"


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class GroupEntry(_Entry):
    """A group in a recorded step, without its tensors.

    Attributes:
        group: Number of the group.
        params: Names of its parameters.
        criterion: Table of the criterion that made the step.
        damping: Table of the damping that made the step.
        reduction: Reduction of the loss over the samples.
        lr: Factor on the step.
        outputs: Number of outputs of the model for each sample.
        samples: Number of samples in the GGN.
        parameters: Number of parameters that the loss reaches.
        gradient_norm: Norm of the gradient, loss/param.
        parameter_norm: Norm of the parameters, param.
        mean_curvature: Mean of the eigenvalues, zeros included, loss/param².
        sample_gradients: Mean over the samples of the squared norm of their gradients, loss²/param²; `None` in traces
            of earlier versions, for which it is estimated from the recorded directions.
        displacement: Slope and curvature of the loss along the displacement of an averaged iterate, loss.
        weight_decay: Coefficient of the L2 weight decay, which gammas and lambdas include, loss/param².
        found: Number of all directions. The recorded directions are those with the largest eigenvalues.
        last: Outcome of the previous step of the group, if a strategy required it.
    """

    group: Count
    params: tuple[str, ...]
    criterion: dict[str, Any]
    damping: dict[str, Any]
    reduction: Literal["mean", "sum"]
    lr: float
    outputs: Count
    samples: Count
    parameters: Count
    gradient_norm: float
    parameter_norm: float
    mean_curvature: float
    sample_gradients: float | None = None
    displacement: tuple[float, float] = (0.0, 0.0)
    weight_decay: float = 0.0
    found: Count
    last: Outcome | None = None


class StepEntry(_Entry):
    """A recorded step.

    Attributes:
        step: Number of the step, from 0.
        epoch: Number of the epoch, from 1; `None` if the caller counts no epochs.
        loss: Loss of the batch before the step.
        loss_after: Loss of the same batch after the whole step, if it was evaluated.
        file: Name of the file with the tensors.
        bytes: Size of the file.
        groups: The recorded groups.
    """

    step: Count
    epoch: Count | None
    loss: float
    loss_after: float | None = None
    file: Name
    bytes: Count
    groups: tuple[GroupEntry, ...] = Field(min_length=1)

    @field_validator("groups")
    @classmethod
    def _check_groups(cls, groups: tuple[GroupEntry, ...]) -> tuple[GroupEntry, ...]:
        if len({entry.group for entry in groups}) < len(groups):
            raise PydanticCustomError("groups", "Input should be groups with different numbers")
        return groups


class Index(_Entry):
    """The index of a trace.

    Attributes:
        format: Version of this format.
        megabytes: Largest size of the trace.
        left_out: Numbers of the steps that did not fit into the trace.
        steps: The steps, in order.
    """

    format: Literal["ddn trace 1"] = FORMAT
    megabytes: float
    left_out: tuple[Count, ...] = ()
    steps: tuple[StepEntry, ...] = ()

    @field_validator("steps")
    @classmethod
    def _check_steps(cls, steps: tuple[StepEntry, ...]) -> tuple[StepEntry, ...]:
        numbers = [entry.step for entry in steps]
        if sorted(set(numbers)) != numbers:
            raise PydanticCustomError("steps", "Input should be steps in ascending order")
        return steps

    @property
    def bytes(self) -> int:
        """Total size of the files with tensors."""
        return sum(entry.bytes for entry in self.steps)

    def before(self, step: int) -> Index:
        """Return the index without a step and all later ones."""
        kept = tuple(entry for entry in self.steps if entry.step < step)
        return self.model_copy(update={"steps": kept, "left_out": tuple(one for one in self.left_out if one < step)})

    def write(self, folder: Path) -> None:
        """Write the index into a folder."""
        write_atomically(folder / INDEX, (self.model_dump_json(indent=1) + "\n").encode())

    @classmethod
    def read(cls, folder: Path) -> Index:
        """Return the index in a folder.

        Raises:
            ArgumentError: The folder has no index, or the index cannot be read.
        """
        try:
            content = content_of(folder / INDEX)
        except FileNotFoundError as error:
            raise ArgumentError(
                f"There is no trace in {folder}: {INDEX} is missing. Record one with `ddn train --record`."
            ) from error
        return parsed(TypeAdapter(cls), content, folder / INDEX, "an index of a trace")

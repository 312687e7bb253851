"""Another damping, with a field that is a function of the step number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from pydantic import Field, ValidationError, model_validator

from ddn_core.api import AnyDamping, Damping, unit_of
from ddn_plugins.damping._shapes import Piecewise, Shape

if TYPE_CHECKING:
    from torch import Tensor

    from ddn_core.api import Context, Directions, Outcome


class Schedule(Damping, kind="schedule"):
    """δ_k = δ_k of another damping, one field of which is a function of the number of steps taken.

    Source: Loshchilov and Hutter 2017, "SGDR: stochastic gradient descent with warm restarts", for the cosine.

    The functions are `linear`, `cosine`, `exponential` and `piecewise`. A field that only initializes a state,
    such as `initial` of `levenberg-marquardt`, has no effect after the first step.

    When it fails: the values do not react to the training, so a last value that would be too small by itself fails
    here, too. Choose a larger last value, or bound the step with `max_step_norm`, such as 1.
    """

    of: AnyDamping = Field(description="Damping with the field.")
    field: str = Field(description="Name of the field, which must be a number.", examples=["value"])
    values: Shape = Field(
        description="Values of the field as a function of the step.",
        examples=[{"shape": "cosine", "first": 1.0, "last": 0.01, "steps": 500}],
    )

    @model_validator(mode="after")
    def _field_takes_the_values(self) -> Self:
        fields = type(self.of).model_fields
        if self.field not in fields:
            numbers = ", ".join(name for name in fields if isinstance(getattr(self.of, name), int | float))
            raise ValueError(
                f"{type(self.of).kind!r} has no field {self.field!r}; its fields with numbers are: {numbers or 'none'}"
            )
        for value in self._extremes():
            table = {name: getattr(self.of, name) for name in fields}
            try:
                type(self.of).model_validate({**table, self.field: self._rounded(value)})
            except ValidationError as error:
                reason = error.errors()[0]["msg"]
                raise ValueError(f"the field {self.field!r} cannot be {value:g}: {reason}") from error
        return self

    def in_units(self, loss: float = 1.0, param: float = 1.0) -> Self:
        """Return the equivalent schedule for scaled losses and parameters; its values have the unit of the field."""
        unit = unit_of(type(self.of).model_fields[self.field])
        factor = 1.0 if unit is None else unit.factor(loss, param)
        values = self.values.model_dump()
        if "points" in values:
            values["points"] = [(step, factor * value) for step, value in values["points"]]
        else:
            values.update(first=factor * values["first"], last=factor * values["last"])
        fields = {"of": self.of.in_units(loss, param), "field": self.field, "values": values}
        return type(self).model_validate(fields)

    def uniform(self, context: Context) -> float | None:
        """Return the damping of the current step if it is one number for all directions."""
        return self._current(context).uniform(context)

    def damp(self, directions: Directions) -> Tensor:
        """Return the damping of the current step."""
        return self._current(directions.context)(directions)

    def notify_inner(self, outcome: Outcome) -> None:
        """Let the other damping, with the field as in this step, observe the outcome, and keep its new state."""
        damping = self._at(outcome.step)
        damping.notify(outcome)
        for name, value in (damping.__pydantic_private__ or {}).items():
            setattr(self.of, name, value)

    def _current(self, context: Context) -> Damping:
        return self._at(context.step)

    def _at(self, step: int) -> Damping:
        """Return the other damping with its state, and with the field's value at a step."""
        return self.of.model_copy(update={self.field: self._rounded(self.values.at(step))})

    def _rounded(self, value: float) -> float:
        return round(value) if isinstance(getattr(self.of, self.field), int) else value

    def _extremes(self) -> list[float]:
        if isinstance(self.values, Piecewise):
            return [value for _, value in self.values.points]
        return [self.values.first, self.values.last]

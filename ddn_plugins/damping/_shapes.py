"""Functions of the step: what `schedule` takes its values from."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, FiniteFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from ddn_core.api import TableModel


class Passage(TableModel):
    """From one value to another in a number of steps; the children say along which curve."""

    first: FiniteFloat = Field(description="Value at step 0, in the unit of the field.")
    last: FiniteFloat = Field(description="Value from step `steps` on, in the unit of the field.")
    steps: PositiveInt = Field(description="Number of steps from the first value to the last.")

    def done(self, step: int) -> float:
        """Return which part of the way has been gone, from 0 to 1."""
        return min(step / self.steps, 1.0)


class Linear(Passage):
    """From `first` to `last` in a straight line, then `last`."""

    shape: Literal["linear"] = Field(description="Function of the step.")

    def at(self, step: int) -> float:
        """Return the value at a step."""
        return self.first + self.done(step) * (self.last - self.first)


class Cosine(Passage):
    """From `first` to `last` along half a period of a cosine, then `last`."""

    shape: Literal["cosine"] = Field(description="Function of the step.")

    def at(self, step: int) -> float:
        """Return the value at a step."""
        return self.last + (0.5 + 0.5 * math.cos(math.pi * self.done(step))) * (self.first - self.last)


class Exponential(Passage):
    """From `first` to `last` by the same factor at each step, then `last`."""

    shape: Literal["exponential"] = Field(description="Function of the step.")
    first: PositiveFloat = Field(description="Value at step 0, in the unit of the field.")
    last: PositiveFloat = Field(description="Value from step `steps` on, in the unit of the field.")

    def at(self, step: int) -> float:
        """Return the value at a step."""
        growth: float = (self.last / self.first) ** self.done(step)
        return self.first * growth


class Piecewise(TableModel):
    """One value after another: that of the last point whose step has come."""

    shape: Literal["piecewise"] = Field(description="Function of the step.")
    points: list[tuple[NonNegativeInt, FiniteFloat]] = Field(
        min_length=1, description="Step and value of each point, in the unit of the field."
    )

    @model_validator(mode="after")
    def _each_step_once(self) -> Self:
        steps = [step for step, _ in self.points]
        if len(set(steps)) < len(steps):
            raise ValueError("two points have the same step; give each step one value")
        return self

    @property
    def first(self) -> float:
        """Value at the first step of all."""
        return min(self.points)[1]

    def at(self, step: int) -> float:
        """Return the value at a step; before the first point, that of the first point."""
        reached = [point for point in self.points if point[0] <= step]
        return max(reached)[1] if reached else self.first


Shape = Annotated[Linear | Cosine | Exponential | Piecewise, Field(discriminator="shape")]

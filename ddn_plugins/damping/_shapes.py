"""Functions of the step number, which `schedule` evaluates."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, FiniteFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from ddn_core.api import TableModel


class Transition(TableModel):
    """A change from one value to another in a number of steps; the subclasses define the curve."""

    first: FiniteFloat = Field(description="Value at step 0, in the unit of the field.")
    last: FiniteFloat = Field(description="Value from step `steps` on, in the unit of the field.")
    steps: PositiveInt = Field(description="Number of steps from the first value to the last.")

    def progress(self, step: int) -> float:
        """Return the completed fraction of the steps, from 0 to 1."""
        return min(step / self.steps, 1.0)


class Linear(Transition):
    """Linear from `first` to `last`, then constant."""

    shape: Literal["linear"] = Field(description="Name of the function.")

    def at(self, step: int) -> float:
        """Return the value at a step."""
        return self.first + self.progress(step) * (self.last - self.first)


class Cosine(Transition):
    """Half a period of a cosine from `first` to `last`, then constant."""

    shape: Literal["cosine"] = Field(description="Name of the function.")

    def at(self, step: int) -> float:
        """Return the value at a step."""
        return self.last + (0.5 + 0.5 * math.cos(math.pi * self.progress(step))) * (self.first - self.last)


class Exponential(Transition):
    """Multiplied by the same factor in each step from `first` to `last`, then constant."""

    shape: Literal["exponential"] = Field(description="Name of the function.")
    first: PositiveFloat = Field(description="Value at step 0, in the unit of the field.")
    last: PositiveFloat = Field(description="Value from step `steps` on, in the unit of the field.")

    def at(self, step: int) -> float:
        """Return the value at a step."""
        growth: float = (self.last / self.first) ** self.progress(step)
        return self.first * growth


class Piecewise(TableModel):
    """Piecewise constant: the value of the last point whose step has been reached."""

    shape: Literal["piecewise"] = Field(description="Name of the function.")
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
        """Value at the smallest step of the points."""
        return min(self.points)[1]

    def at(self, step: int) -> float:
        """Return the value at a step; before the first point, return the value of the first point."""
        reached = [point for point in self.points if point[0] <= step]
        return max(reached)[1] if reached else self.first


Shape = Annotated[Linear | Cosine | Exponential | Piecewise, Field(discriminator="shape")]

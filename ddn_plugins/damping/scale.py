"""Another damping, multiplied by a factor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, PositiveFloat

from ddn_core.api import AnyDamping, Damping, Unit
from ddn_plugins.damping._uniform import combined_uniform

if TYPE_CHECKING:
    from torch import Tensor

    from ddn_core.api import Context, Directions


class Scale(Damping, kind="scale"):
    """δ_k = factor · δ_k of another damping.

    When it fails: a factor does not help a damping that vanishes, and a factor below 1 makes steps longer. Bound them
    with `max_step_norm`, such as 1.
    """

    of: AnyDamping = Field(description="Damping to multiply.", examples=[{"kind": "relative"}])
    factor: Annotated[PositiveFloat, Unit("1")] = Field(1.0, description="Factor on the damping.", examples=[0.5])

    def uniform(self, context: Context) -> float | None:
        """Return the factor times the damping if it is one number for all directions."""
        return combined_uniform([self.of], context, lambda values: self.factor * values[0])

    def damp(self, directions: Directions) -> Tensor:
        """Return the factor times the damping."""
        return self.factor * self.of(directions)

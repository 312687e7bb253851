"""Another damping, clamped between bounds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator

from ddn_core.api import AnyDamping, Damping, Unit
from ddn_plugins._bounds import check_order
from ddn_plugins.damping._uniform import combined_uniform

if TYPE_CHECKING:
    from torch import Tensor

    from ddn_core.api import Context, Directions


class Clamp(Damping, kind="clamp"):
    """δ_k = δ_k of another damping, but at least `lowest` and at most `highest`.

    δ = +inf (do not move) stays as it is.

    When it fails: without `lowest`, or with one that is too small, the step may become too long. Raise `lowest`, such
    as to 0.3, or bound the step with `max_step_norm`, such as 1.
    """

    of: AnyDamping = Field(description="Damping to clamp.", examples=[{"kind": "gradient-noise"}])
    lowest: Annotated[NonNegativeFloat, Unit("loss/param²")] = Field(0.0, description="Smallest damping.")
    highest: Annotated[PositiveFloat | None, Unit("loss/param²")] = Field(
        None, description="Largest damping; no limit by default.", examples=[10.0]
    )

    @model_validator(mode="after")
    def _check_bounds(self) -> Self:
        return check_order(self, "lowest", "highest")

    def uniform(self, context: Context) -> float | None:
        """Return the clamped damping if it is one number for all directions."""
        return combined_uniform([self.of], context, lambda values: self._clamped(values[0]))

    def damp(self, directions: Directions) -> Tensor:
        """Return the clamped damping."""
        deltas = self.of(directions)
        return deltas.clamp(self.lowest, self._ceiling).where(deltas.isfinite(), deltas)

    def _clamped(self, delta: float) -> float:
        return min(max(delta, self.lowest), self._ceiling) if math.isfinite(delta) else delta

    @property
    def _ceiling(self) -> float:
        return math.inf if self.highest is None else self.highest

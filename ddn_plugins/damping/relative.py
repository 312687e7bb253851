"""The same damping for every direction, as a fraction of the spectrum's size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, NonNegativeFloat

from ddn_core.api import Damping, Unit

if TYPE_CHECKING:
    from torch import Tensor

    from ddn_core.api import Directions


class Relative(Damping, kind="relative"):
    """δ_k = fraction · max λ, or fraction · mean λ, over the chosen directions.

    Source: the usual scaling of Levenberg's damping; Nielsen 1999, "Damping parameter in Marquardt's method", begins
    with a fraction of the largest diagonal entry.

    Scales with the loss, so that a step does not depend on the unit of the loss.
    """

    fraction: Annotated[NonNegativeFloat, Unit("1")] = Field(1e-2, description="Fraction of the reference eigenvalue.")
    of: Literal["max", "mean"] = Field("max", description="Reference: the largest or the mean eigenvalue.")

    def damp(self, directions: Directions) -> Tensor:
        """Return the fraction of the reference for each direction."""
        evals = directions.evals
        return (self.fraction * (evals.max() if self.of == "max" else evals.mean())).expand_as(evals)

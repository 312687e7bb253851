"""The same damping for every direction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, NonNegativeFloat

from ddn_core.api import Damping, Unit
from ddn_plugins._flat import uniform_deltas

if TYPE_CHECKING:
    from torch import Tensor

    from ddn_core.api import Context, Directions


class Constant(Damping, kind="constant"):
    """δ_k = value for every direction.

    Source: Levenberg 1944, "A method for the solution of certain non-linear problems in least squares".

    The step is Newton's with `G + δ I` in place of G. ViViT's examples use this damping.

    When it fails: the value has a unit, so one that suits a loss, a model or the start of a training may be far too
    small for another, and steps become too long. Raise it by factors of ten, and bound the step with `max_step_norm`,
    such as 1.
    """

    value: Annotated[NonNegativeFloat, Unit("loss/param²")] = Field(1.0, description="Damping of every direction.")

    def uniform(self, context: Context) -> float:
        """Return the value."""
        return self.value

    def damp(self, directions: Directions) -> Tensor:
        """Return the value for each direction."""
        return uniform_deltas(self.value, directions)

"""A damping that bounds the length of the step along each direction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, PositiveFloat

from ddn_core.api import Damping, Unit
from ddn_plugins._flat import freeze_flat_directions

if TYPE_CHECKING:
    from torch import Tensor

    from ddn_core.api import Directions


class Clip(Damping, kind="clip"):
    """δ_k = max(0, |γ̄_k| / c - λ̄_k): the step along each direction has length at most c.

    Source: Liu et al. 2023, "Sophia: a scalable stochastic second-order optimizer", which clips the step of each
    coordinate; here it is clipped in the eigenbasis.

    Along each direction this is the Newton step if it is shorter than c, and a step of length c otherwise.

    When it fails: c has a unit, and K directions together may still move by √K times c. Lower c, or bound the whole
    step with `max_step_norm`, such as 1.
    """

    length: Annotated[PositiveFloat, Unit("param")] = Field(
        0.1, description="c, largest length of the step along a direction."
    )

    def damp(self, directions: Directions) -> Tensor:
        """Return the curvature that each direction lacks for a step of length c."""
        lacking = directions.loss_gammas.abs() / self.length - directions.loss_lambdas
        return freeze_flat_directions(lacking.clamp(min=0), directions)

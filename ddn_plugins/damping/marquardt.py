"""Damping in proportion to each direction's curvature."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, NonNegativeFloat

from ddn_core.api import Damping, Unit
from ddn_plugins._flat import still_where_flat

if TYPE_CHECKING:
    from torch import Tensor

    from ddn_core.api import Directions


class Marquardt(Damping, kind="marquardt"):
    """δ_k = μ λ̄_k: the Newton step along each direction, divided by 1 + μ.

    Source: Marquardt 1963, "An algorithm for least-squares estimation of nonlinear parameters".

    Marquardt scales the damping of each coordinate with its curvature, so that steps do not depend on the coordinates'
    units. In the eigenbasis that is a shorter Newton step: nothing is filtered, all directions are shortened alike.
    """

    mu: Annotated[NonNegativeFloat, Unit("1")] = Field(1.0, description="μ, damping over curvature.")

    def damp(self, directions: Directions) -> Tensor:
        """Return μ times each curvature."""
        return still_where_flat(self.mu * directions.loss_lambdas, directions)

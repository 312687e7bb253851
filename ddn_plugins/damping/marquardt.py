"""A damping proportional to the curvature of each direction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, NonNegativeFloat

from ddn_core.api import Damping, Unit
from ddn_plugins._flat import freeze_flat_directions

if TYPE_CHECKING:
    from torch import Tensor

    from ddn_core.api import Directions


class Marquardt(Damping, kind="marquardt"):
    """δ_k = μ λ̄_k: the Newton step along each direction, divided by 1 + μ.

    Source: Marquardt 1963, "An algorithm for least-squares estimation of nonlinear parameters".

    Marquardt scales the damping of each coordinate by its curvature, so that steps do not depend on the units of the
    coordinates. In the eigenbasis the result is a shorter Newton step: all directions are shortened by the same factor.

    When it fails: a direction with almost no curvature is hardly damped, so that noise in its gradient leads to a step
    of any length. Bound the step with `max_step_norm`, such as 1.
    """

    mu: Annotated[NonNegativeFloat, Unit("1")] = Field(1.0, description="μ, damping divided by curvature.")

    def damp(self, directions: Directions) -> Tensor:
        """Return μ times each curvature."""
        return freeze_flat_directions(self.mu * directions.loss_lambdas, directions)

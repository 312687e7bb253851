"""Damping that vanishes with the gradient."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, PositiveFloat

from ddn_core.api import Damping, Unit
from ddn_plugins._flat import same_for_all, still_where_flat

if TYPE_CHECKING:
    from torch import Tensor

    from ddn_core.api import Context, Directions


class GradientNorm(Damping, kind="gradient-norm"):
    """δ_k = √(H ‖g‖) for every direction, with g the gradient of the group.

    Source: Mishchenko 2021, "Regularized Newton method with global O(1/k²) convergence"; Doikov and Nesterov 2023,
    "Gradient regularization of Newton method with Bregman distances".

    With H half the Lipschitz constant of the Hessian of a convex loss, it has the rate of the cubic step, in closed
    form: nothing has to be solved for, and no eigenvector is needed where all directions are kept.
    """

    smoothness: Annotated[PositiveFloat, Unit("loss/param³")] = Field(
        1.0, description="H, half the Lipschitz constant of the Hessian."
    )

    def uniform(self, context: Context) -> float:
        """Return √(H ‖g‖)."""
        return math.sqrt(self.smoothness * context.gradient_norm)

    def damp(self, directions: Directions) -> Tensor:
        """Return √(H ‖g‖) for each direction."""
        delta = self.uniform(directions.context)
        return still_where_flat(same_for_all(delta, directions), directions)

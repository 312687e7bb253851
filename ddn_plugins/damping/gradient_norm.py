"""A damping that vanishes with the gradient."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, PositiveFloat

from ddn_core.api import Damping, Unit
from ddn_plugins._flat import freeze_flat_directions, uniform_deltas

if TYPE_CHECKING:
    from torch import Tensor

    from ddn_core.api import Context, Directions


class GradientNorm(Damping, kind="gradient-norm"):
    """δ_k = √(H ‖g‖) for every direction, with g the gradient of the group.

    Source: Mishchenko 2021, "Regularized Newton method with global O(1/k²) convergence"; Doikov and Nesterov 2023,
    "Gradient regularization of Newton method with Bregman distances".

    For a convex loss, with H half the Lipschitz constant of the Hessian, the method converges at the rate of the cubic
    step, but δ has a closed form. If all directions are kept, no eigenvectors are needed.

    When it fails: H has a unit, and with an H that is too small the steps are hardly damped; δ also vanishes with the
    gradient. Raise H by factors of ten, or bound the step with `max_step_norm`, such as 1.
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
        return freeze_flat_directions(uniform_deltas(delta, directions), directions)

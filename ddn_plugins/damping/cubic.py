"""A damping proportional to the length of the resulting step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, PositiveFloat

from ddn_core.api import Damping, Unit
from ddn_plugins._flat import freeze_flat_directions, uniform_deltas
from ddn_plugins._newton import gradients_and_curvatures, reciprocal_norm, root_from_left

if TYPE_CHECKING:
    from torch import Tensor

    from ddn_core.api import Directions


class Cubic(Damping, kind="cubic"):
    """δ_k = (M/2) · ‖s(δ)‖: the step minimizes `g·s + ½ s·G s + (M/6) ‖s‖³`.

    Source: Nesterov and Polyak 2006, "Cubic regularization of Newton method and its global performance".

    If G were the Hessian, with Lipschitz constant M, this cubic model would be an upper bound on the loss. In the
    eigenbasis, δ is the only root of an equation in one variable.

    When it fails: M has a unit, and with an M that is too small the steps are hardly damped. Raise M by factors of ten,
    or bound the step with `max_step_norm`, such as 1.
    """

    lipschitz: Annotated[PositiveFloat, Unit("loss/param³")] = Field(
        1.0, description="M, Lipschitz constant of the Hessian."
    )

    def damp(self, directions: Directions) -> Tensor:
        """Return the root of `1 / ‖s(δ)‖ = M / (2 δ)` for each direction."""
        gammas, lambdas = gradients_and_curvatures(directions)
        bound = self.lipschitz * gammas
        start = float((bound / (lambdas + (lambdas.square() + 2 * bound).sqrt())).nan_to_num(nan=0.0).max())

        def excess(delta: float) -> tuple[float, float]:
            value, derivative = reciprocal_norm(gammas, lambdas, delta)
            return value - self.lipschitz / (2 * delta), derivative + self.lipschitz / (2 * delta**2)

        delta = root_from_left(excess, start) if start > 0 else 0.0
        return freeze_flat_directions(uniform_deltas(delta, directions), directions)

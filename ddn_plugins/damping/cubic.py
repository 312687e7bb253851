"""Damping in proportion to the length of the step that it gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, PositiveFloat

from ddn_core.api import Damping, Unit
from ddn_plugins._flat import same_for_all, still_where_flat
from ddn_plugins._newton import derivatives, reciprocal_norm, root_from_left

if TYPE_CHECKING:
    from torch import Tensor

    from ddn_core.api import Directions


class Cubic(Damping, kind="cubic"):
    """δ_k = (M/2) · ‖s(δ)‖: the step minimises `g·s + ½ s·G s + (M/6) ‖s‖³`.

    Source: Nesterov and Polyak 2006, "Cubic regularization of Newton method and its global performance".

    With the Hessian in place of the GGN, and M its Lipschitz constant, that is an upper bound of the loss. In the
    eigenbasis it is one equation for one number, with one root.
    """

    lipschitz: Annotated[PositiveFloat, Unit("loss/param³")] = Field(
        1.0, description="M, Lipschitz constant of the Hessian."
    )

    def damp(self, directions: Directions) -> Tensor:
        """Return the root of `1 / ‖s(δ)‖ = M / (2 δ)` for each direction."""
        gammas, lambdas = derivatives(directions)
        bound = self.lipschitz * gammas
        start = float((bound / (lambdas + (lambdas.square() + 2 * bound).sqrt())).nan_to_num(nan=0.0).max())

        def excess(delta: float) -> tuple[float, float]:
            value, derivative = reciprocal_norm(gammas, lambdas, delta)
            return value - self.lipschitz / (2 * delta), derivative + self.lipschitz / (2 * delta**2)

        delta = root_from_left(excess, start) if start > 0 else 0.0
        return still_where_flat(same_for_all(delta, directions), directions)

"""A smooth cutoff of small eigenvalues."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, PositiveFloat

from ddn_core.api import Damping, Unit
from ddn_plugins._flat import freeze_flat_directions

if TYPE_CHECKING:
    from torch import Tensor

    from ddn_core.api import Directions


class SmoothPseudoInverse(Damping, kind="smooth-pseudo-inverse"):
    """δ_k = λ̄_k · (ε λ_max / λ_k)^p: the Newton step, divided by 1 + (ε λ_max / λ_k)^p.

    Source: Schmitt and Heyl 2020, "Quantum many-body dynamics in two dimensions with artificial neural networks",
    regularization of the equations of motion (p = 6).

    A pseudo-inverse keeps eigenvalues above ε λ_max and drops the others; here the transition is smooth.

    When it fails: directions above the cutoff are not damped, also if their gradient is noise, and the cutoff falls
    with the largest eigenvalue, so steps become too long. Bound them with `max_step_norm`, such as 1.
    """

    epsilon: Annotated[float, Unit("1")] = Field(
        1e-3, gt=0, le=1, description="ε, eigenvalue at the cutoff, as a fraction of the largest."
    )
    power: Annotated[PositiveFloat, Unit("1")] = Field(6.0, description="p, steepness of the cutoff.")

    def damp(self, directions: Directions) -> Tensor:
        """Return each curvature times the cutoff."""
        evals = directions.evals
        deltas = directions.loss_lambdas * (self.epsilon * evals.max() / evals).pow(self.power)
        return freeze_flat_directions(deltas.nan_to_num(nan=math.inf, posinf=math.inf), directions)  # NaN: 0 · inf

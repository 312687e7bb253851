"""A smooth cutoff of directions whose gradient is noise."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, PositiveFloat

from ddn_core.api import Damping, Unit
from ddn_plugins._flat import still_where_flat
from ddn_plugins._noise import relative_variance

if TYPE_CHECKING:
    from torch import Tensor

    from ddn_core.api import Directions


class SnrCutoff(Damping, kind="snr-cutoff"):
    """δ_k = λ̄_k · (ε / SNR_k)^p with SNR_k = |γ̄_k| / √(var γ_k / N): the step is the Newton step over 1 + (ε / SNR)^p.

    Source: Schmitt and Heyl 2020, "Quantum many-body dynamics in two dimensions with artificial neural networks",
    regularization of the equations of motion (p = 6).

    Directions whose directional gradient is far above its sampling noise are left as they are, those far below are cut
    off. A batch of one sample says nothing of the noise, and is not damped.
    """

    epsilon: Annotated[PositiveFloat, Unit("1")] = Field(2.0, description="ε, signal-to-noise ratio of the cutoff.")
    power: Annotated[PositiveFloat, Unit("1")] = Field(6.0, description="p, steepness of the cutoff.")

    def damp(self, directions: Directions) -> Tensor:
        """Return each curvature times the cutoff."""
        ratio = self.epsilon * relative_variance(directions.gammas).sqrt()  # ε / SNR
        deltas = directions.loss_lambdas * ratio.pow(self.power)
        return still_where_flat(deltas.nan_to_num(nan=math.inf, posinf=math.inf), directions)  # NaN: 0 · inf

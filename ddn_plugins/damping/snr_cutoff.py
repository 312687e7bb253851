"""A smooth cutoff of directions whose gradient is noise."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, PositiveFloat

from ddn_core.api import Damping, Unit
from ddn_plugins._flat import freeze_flat_directions
from ddn_plugins._noise import relative_variance

if TYPE_CHECKING:
    from torch import Tensor

    from ddn_core.api import Directions


class SnrCutoff(Damping, kind="snr-cutoff"):
    """δ_k = λ̄_k · (ε / SNR_k)^p with SNR_k = |γ̄_k| / √(var γ_k / N): the Newton step, divided by 1 + (ε / SNR_k)^p.

    Source: Schmitt and Heyl 2020, "Quantum many-body dynamics in two dimensions with artificial neural networks",
    regularization of the equations of motion (p = 6).

    Directions whose gradient is far above its sampling noise are hardly damped, and those far below it are cut off. The
    noise of a single sample is unknown; there is then no damping.

    When it fails: a direction with little curvature, along which the samples of the batch happen to agree, is hardly
    damped, so that steps become too long. Bound them with `max_step_norm`, such as 1, or set a lower bound with
    `clamp`, such as 0.3.
    """

    epsilon: Annotated[PositiveFloat, Unit("1")] = Field(2.0, description="ε, signal-to-noise ratio at the cutoff.")
    power: Annotated[PositiveFloat, Unit("1")] = Field(6.0, description="p, steepness of the cutoff.")

    def damp(self, directions: Directions) -> Tensor:
        """Return each curvature times the cutoff."""
        ratio = self.epsilon * relative_variance(directions.gammas).sqrt()  # ε / SNR
        deltas = directions.loss_lambdas * ratio.pow(self.power)
        return freeze_flat_directions(deltas.nan_to_num(nan=math.inf, posinf=math.inf), directions)  # NaN: 0 · inf

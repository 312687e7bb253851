"""The damping with the largest expected gain, given the noise of the gradient."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, NonNegativeFloat

from ddn_core.api import Damping, Unit
from ddn_plugins._flat import freeze_flat_directions
from ddn_plugins._noise import relative_variance

if TYPE_CHECKING:
    from torch import Tensor

    from ddn_core.api import Directions


class GradientNoise(Damping, kind="gradient-noise"):
    """δ_k = λ̄_k · (var γ_k / N) / γ̄_k²: the noisier γ̄_k, the shorter the step.

    Source: the expected-gain optimum; the same shrinkage of a noisy gradient is in Balles and Hennig 2018, "Dissecting
    Adam".

    The gradient γ along a direction is known only by an estimate γ̂ with variance var γ / N. Of all steps
    `-γ̂ / (λ + δ)`, the step with this δ has the largest expected gain; the documentation derives it. Along a direction
    with γ̄_k = 0 the step does not move. The noise of a single sample is unknown; there is then no damping.

    When it fails: a direction with little curvature, along which the samples of the batch happen to agree, is hardly
    damped, so that steps become too long. Bound them with `max_step_norm`, such as 1, or set a lower bound with
    `clamp`, such as 0.3.
    """

    strength: Annotated[NonNegativeFloat, Unit("1")] = Field(1.0, description="Factor on the damping.")

    def damp(self, directions: Directions) -> Tensor:
        """Return each curvature times the relative variance of the directional gradient."""
        noise = relative_variance(directions.gammas)
        deltas = directions.loss_lambdas * (self.strength * noise).nan_to_num(nan=0.0, posinf=math.inf)
        return freeze_flat_directions(deltas.nan_to_num(nan=0.0, posinf=math.inf), directions)

"""Damping that makes the expected gain largest, given the noise of the gradient."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, NonNegativeFloat

from ddn_core.api import Damping, Unit
from ddn_plugins._flat import still_where_flat
from ddn_plugins._noise import relative_variance

if TYPE_CHECKING:
    from torch import Tensor

    from ddn_core.api import Directions


class GradientNoise(Damping, kind="gradient-noise"):
    """δ_k = λ̄_k · (var γ_k / N) / γ̄_k²: the more of γ̄_k is noise, the shorter the step.

    Source: the expected-gain optimum; the same shrinkage of a noisy gradient is in Balles and Hennig 2018, "Dissecting
    Adam".

    Of all steps `-γ̂ / (λ + δ)` along a direction whose gradient γ is only known as an estimate γ̂ with variance
    var γ / N, this one has the largest expected gain; the docs derive it. A direction that is all noise is not
    moved along. A batch of one sample says nothing of the noise, and is not damped.
    """

    strength: Annotated[NonNegativeFloat, Unit("1")] = Field(1.0, description="Factor on the damping.")

    def damp(self, directions: Directions) -> Tensor:
        """Return each curvature times the relative variance of the directional gradient."""
        noise = relative_variance(directions.gammas)
        deltas = directions.loss_lambdas * (self.strength * noise).nan_to_num(nan=0.0, posinf=math.inf)
        return still_where_flat(deltas.nan_to_num(nan=0.0, posinf=math.inf), directions)

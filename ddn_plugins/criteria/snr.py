"""Keep the directions whose derivative is large compared with its sampling noise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, NonNegativeFloat

from ddn_core.api import Criterion, Unit
from ddn_plugins._noise import relative_variance

if TYPE_CHECKING:
    from torch import Tensor

    from ddn_core.api import Directions


class Snr(Criterion, kind="snr"):
    """Keep the directions with SNR_k = |x̄_k| / √(var x_k / N) ≥ bound, for x the directional gradients or curvatures.

    Source: Dangel, Tatzel, Hennig 2022, "ViViT", which uses such ratios (squared, and without N).

    The noise of a single sample is unknown; all directions with x̄_k ≠ 0 are then kept.
    """

    of: Literal["gradient", "curvature"] = Field(
        "gradient", description="Derivative x to compare with its noise: the directional gradients γ or curvatures λ."
    )
    bound: Annotated[NonNegativeFloat, Unit("1")] = Field(2.0, description="Smallest signal-to-noise ratio to keep.")

    def select(self, directions: Directions) -> Tensor:
        """Return the indices of the directions whose ratio reaches the bound."""
        noise = relative_variance(directions.gammas if self.of == "gradient" else directions.lambdas)
        return (noise.rsqrt() >= self.bound).nonzero()[:, 0]

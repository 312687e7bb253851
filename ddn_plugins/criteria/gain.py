"""Keep the directions along which the Newton step reliably decreases the loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, PositiveInt

from ddn_core.api import Criterion, Unit
from ddn_plugins._bootstrap import ResampledGain

if TYPE_CHECKING:
    from torch import Tensor

    from ddn_core.api import Directions


class Gain(Criterion, kind="gain"):
    """Keep the directions whose Newton step τ = -γ̄_k / λ̄_k has a gain `-γ τ - ½ λ τ²` with a nonnegative low quantile.

    Source: Dangel, Tatzel, Hennig 2022, "ViViT", for the derivatives of each sample; Efron 1979 for the bootstrap.

    The quantile is estimated by resampling γ and λ over the samples. Along the kept directions, an undamped step
    decreases the loss on other samples too, with the given confidence.
    """

    quantile: Annotated[float, Unit("1")] = Field(0.1, ge=0, le=0.5, description="Level of the quantile of the gain.")
    resamples: PositiveInt = Field(200, le=10**5, description="Number of resampled batches.")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of the resampling.")

    def select(self, directions: Directions) -> Tensor:
        """Return the indices of the directions whose quantile is not negative."""
        gain = ResampledGain.of(directions, self.resamples, self.seed)
        quantile = gain.quantile(-directions.loss_gammas / directions.loss_lambdas, self.quantile)
        return (quantile >= 0).nonzero()[:, 0]

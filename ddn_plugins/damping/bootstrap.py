"""The damping with the largest reliable gain, by resampling."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from ddn_core.api import Damping, Unit
from ddn_plugins._bootstrap import ResampledGain
from ddn_plugins._bounds import check_order
from ddn_plugins._flat import freeze_flat_directions

if TYPE_CHECKING:
    from torch import Tensor

    from ddn_core.api import Directions


class Bootstrap(Damping, kind="bootstrap"):
    """δ_k = the δ of a grid for which a low quantile of the gain `-γ τ - ½ λ τ²`, τ = -γ̄_k / (λ̄_k + δ), is largest.

    Source: Dangel, Tatzel, Hennig 2022, "ViViT": the authors' own rule for directional damping.

    The quantile is estimated by resampling γ and λ over the samples. If it is negative for all dampings of the grid,
    the step does not move along the direction. The grid consists of multiples of λ̄_k: zero, and `points` multiples
    from `lowest` to `highest`, evenly spaced in their logarithm.

    When it fails: the gain is that of the quadratic model on resamples of one batch, which shows neither the error of
    the model for long steps nor the samples outside of the batch. Bound the step with `max_step_norm`, such as 1, or
    take the `maximum` with a `constant`, such as 0.3.
    """

    quantile: Annotated[float, Unit("1")] = Field(0.1, ge=0, le=0.5, description="Level of the quantile of the gain.")
    resamples: PositiveInt = Field(200, le=10**5, description="Number of resampled batches.")
    lowest: Annotated[PositiveFloat, Unit("1")] = Field(
        1e-2, description="Smallest positive damping in the grid, divided by λ̄_k."
    )
    highest: Annotated[PositiveFloat, Unit("1")] = Field(
        1e3, description="Largest damping in the grid, divided by λ̄_k."
    )
    points: PositiveInt = Field(21, le=1000, description="Number of positive dampings in the grid.")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of the resampling.")

    @model_validator(mode="after")
    def _check_bounds(self) -> Self:
        return check_order(self, "lowest", "highest")

    def damp(self, directions: Directions) -> Tensor:
        """Return the best damping of the grid for each direction."""
        gammas, lambdas = directions.loss_gammas, directions.loss_lambdas
        gain = ResampledGain.of(directions, self.resamples, self.seed)
        best, deltas = lambdas.new_full(lambdas.shape, -math.inf), lambdas.clone()
        for multiple in self._grid():
            quantile = gain.quantile(-gammas / (lambdas * (1 + multiple)), self.quantile)
            better = quantile > best
            best, deltas = quantile.where(better, best), (multiple * lambdas).where(better, deltas)
        return freeze_flat_directions(deltas.masked_fill(~(best >= 0), math.inf), directions)

    def _grid(self) -> list[float]:
        ratio, steps = self.highest / self.lowest, max(self.points - 1, 1)
        return [0.0, *(self.lowest * ratio ** (point / steps) for point in range(self.points))]

"""Keep the directions that contain most of the gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, PositiveInt

from ddn_core.api import Criterion, Unit

if TYPE_CHECKING:
    from torch import Tensor

    from ddn_core.api import Directions


class GradientOverlap(Criterion, kind="gradient-overlap"):
    """Keep the fewest directions, by largest |γ̄_k|, whose `Σ_k γ̄_k²` reaches a fraction of ‖g‖², but at most `k`.

    Source: Gur-Ari, Roberts, Dyer 2018, "Gradient descent happens in a tiny subspace", section 2, for the overlap.

    If all directions together contain less than the fraction, as with Monte-Carlo samples, all are kept (or `k`). With
    `fraction = 1`, the `k` directions with the largest overlap are kept.
    """

    fraction: Annotated[float, Unit("1")] = Field(0.9, gt=0, le=1, description="Fraction of ‖g‖² to reach.")
    k: PositiveInt | None = Field(None, description="Largest number of directions to keep; no limit by default.")

    def select(self, directions: Directions) -> Tensor:
        """Return the indices of the directions, ascending."""
        overlaps = directions.loss_gammas.double().square()
        order = overlaps.argsort(descending=True)
        contained = overlaps[order].cumsum(0)
        lacking = contained < self.fraction * directions.context.gradient_norm**2 * (1 - 1e-6)  # rounding of the norm
        count = min(int(lacking.sum()) + 1, self.k or len(directions))
        return order[:count].sort().values

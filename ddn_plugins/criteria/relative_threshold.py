"""Keep the directions whose eigenvalue is at least a fraction of the largest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from ddn_core.api import Criterion, Unit

if TYPE_CHECKING:
    from torch import Tensor

    from ddn_core.api import Directions


class RelativeThreshold(Criterion, kind="relative-threshold"):
    """Keep the directions with λ_k ≥ ratio · max λ.

    Source: Hansen 1998, "Rank-deficient and discrete ill-posed problems".

    These are the directions that a truncated pseudo-inverse keeps: the numerical rank at a tolerance.
    """

    ratio: Annotated[float, Unit("1")] = Field(
        1e-3, gt=0, le=1, description="Smallest eigenvalue to keep, as a fraction of the largest."
    )

    def select(self, directions: Directions) -> Tensor:
        """Return the indices of the eigenvalues that reach the threshold."""
        return (directions.evals >= self.ratio * directions.evals.max()).nonzero()[:, 0]

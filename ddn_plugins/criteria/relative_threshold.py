"""Keep the directions whose eigenvalue is at least a fraction of the largest."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from ddn_core.api import Criterion, Directions


class RelativeThreshold(Criterion, kind="relative-threshold"):
    """Keep the directions with λ_k ≥ ratio · max λ."""

    ratio: float = Field(
        1e-3, gt=0, le=1, description="Least eigenvalue to keep, as a fraction of the largest, without unit."
    )

    def select(self, directions: Directions) -> Tensor:
        """Return the indices of the eigenvalues that reach the bound."""
        return (directions.evals >= self.ratio * directions.evals.max()).nonzero()[:, 0]

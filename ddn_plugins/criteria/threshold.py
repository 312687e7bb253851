"""Keep the directions whose eigenvalue is at least a bound."""

from __future__ import annotations

from pydantic import Field, NonNegativeFloat
from torch import Tensor

from ddn_core.api import Criterion, Directions


class Threshold(Criterion, kind="threshold"):
    """Keep the directions with λ_k ≥ value."""

    value: NonNegativeFloat = Field(description="Least eigenvalue to keep, in loss/param².")

    def select(self, directions: Directions) -> Tensor:
        """Return the indices of the eigenvalues that reach the bound."""
        return (directions.evals >= self.value).nonzero()[:, 0]

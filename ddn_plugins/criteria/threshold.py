"""Keep the directions whose eigenvalue is at least a bound."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, NonNegativeFloat

from ddn_core.api import Criterion, Unit

if TYPE_CHECKING:
    from torch import Tensor

    from ddn_core.api import Directions


class Threshold(Criterion, kind="threshold"):
    """Keep the directions with λ_k ≥ value."""

    value: Annotated[NonNegativeFloat, Unit("loss/param²")] = Field(
        description="Smallest eigenvalue to keep.", examples=[1e-3]
    )

    def select(self, directions: Directions) -> Tensor:
        """Return the indices of the eigenvalues that reach the threshold."""
        return (directions.evals >= self.value).nonzero()[:, 0]

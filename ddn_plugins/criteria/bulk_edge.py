"""Keep the directions that stand out from the bulk of the spectrum."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, PositiveFloat

from ddn_core.api import Criterion, Unit
from ddn_plugins.criteria._marchenko_pastur import edge, median

if TYPE_CHECKING:
    from torch import Tensor

    from ddn_core.api import Directions


class BulkEdge(Criterion, kind="bulk-edge"):
    """Keep the directions with λ_k above the edge of a Marchenko-Pastur law that is fitted to the bulk of the spectrum.

    Source: Marchenko and Pastur 1967; Gavish and Donoho 2014, "The optimal hard threshold for singular values is 4/√3",
    for the fit by the median.

    The eigenvalues of pure noise lie below `σ² (1 + √q)²`, with q the ratio of the smaller to the larger of R and P. σ²
    is chosen to match the law's median to the median of the eigenvalues, which a few outliers hardly change. A single
    direction has no bulk and is kept.
    """

    margin: Annotated[PositiveFloat, Unit("1")] = Field(1.0, description="Factor on the edge.")
    aspect: Annotated[float | None, Unit("1")] = Field(
        None, gt=0, le=1, description="q, ratio of the sides of the noise matrix; by default min(R, P) / max(R, P)."
    )

    def select(self, directions: Directions) -> Tensor | list[int]:
        """Return the indices of the eigenvalues above the edge."""
        evals = directions.evals
        if len(evals) == 1:
            return [0]
        columns, parameters = len(directions.evecs), directions.context.parameters
        aspect = self.aspect or min(columns, parameters) / max(columns, parameters)
        middle = 0.5 * (evals[(len(evals) - 1) // 2] + evals[len(evals) // 2])
        return (evals > self.margin * edge(aspect) / median(aspect) * middle).nonzero()[:, 0]

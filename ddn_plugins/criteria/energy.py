"""Keep the fewest directions that hold a fraction of the trace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from ddn_core.api import Criterion, Unit

if TYPE_CHECKING:
    from ddn_core.api import Directions


class Energy(Criterion, kind="energy"):
    """Keep the fewest directions whose eigenvalues add up to at least a fraction of the trace.

    Source: Jolliffe 2002, "Principal component analysis", section 6.1.1.

    The explained variance of principal component analysis, of the GGN.
    """

    fraction: Annotated[float, Unit("1")] = Field(0.9, gt=0, le=1, description="Fraction of the trace to hold.")

    def select(self, directions: Directions) -> range:
        """Return the indices from the first of the kept eigenvalues on: they are ascending."""
        evals = directions.evals.double()
        below = evals.cumsum(0)  # what is lost by leaving out the eigenvalues up to each
        left_out = int((below <= (1 - self.fraction) * below[-1]).sum())
        return range(min(left_out, len(directions) - 1), len(directions))

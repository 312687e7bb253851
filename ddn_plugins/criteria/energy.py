"""Keep the fewest directions whose eigenvalues sum to a fraction of the trace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from ddn_core.api import Criterion, Unit

if TYPE_CHECKING:
    from ddn_core.api import Directions


class Energy(Criterion, kind="energy"):
    """Keep the fewest directions whose eigenvalues add up to at least a fraction of the trace.

    Source: Jolliffe 2002, "Principal component analysis", section 6.1.1.

    This is the explained variance of principal component analysis, applied to the GGN.
    """

    fraction: Annotated[float, Unit("1")] = Field(0.9, gt=0, le=1, description="Fraction of the trace to keep.")

    def select(self, directions: Directions) -> range:
        """Return the indices of the largest eigenvalues, which come last."""
        evals = directions.evals.double()
        below = evals.cumsum(0)  # part of the trace that is lost without the eigenvalues up to each one
        left_out = int((below <= (1 - self.fraction) * below[-1]).sum())
        return range(min(left_out, len(directions) - 1), len(directions))

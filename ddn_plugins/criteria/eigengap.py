"""Keep the directions above the largest gap of the spectrum."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, PositiveInt

from ddn_core.api import Criterion

if TYPE_CHECKING:
    from ddn_core.api import Context, Directions


class Eigengap(Criterion, kind="eigengap"):
    """Keep the directions above the largest ratio λ_(i) / λ_(i+1) of neighbouring eigenvalues, in descending order.

    Source: von Luxburg 2007, "A tutorial on spectral clustering", section 8.3, with
    ratios in place of differences.

    The directions above a wide gap can be estimated from few samples (Davis and Kahan 1970). Only the `most` gaps after
    the largest eigenvalues are compared, since the ratios at the end of a spectrum are those of rounding errors.
    """

    most: PositiveInt = Field(50, description="Largest number of directions to keep.")

    def leading_directions(self, context: Context) -> int:
        """Return one more than the largest number of directions, for the other side of the last gap."""
        return self.most + 1

    def select(self, directions: Directions) -> range:
        """Return the indices above the largest gap; a single direction is kept."""
        evals = directions.evals[-self.most - 1 :].double()
        gaps = evals[1:] / evals[:-1]
        kept = len(gaps) - int(gaps.argmax()) if len(gaps) else 1
        return range(len(directions) - kept, len(directions))

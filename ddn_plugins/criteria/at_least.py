"""What another criterion keeps, but no fewer than a number."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, PositiveInt

from ddn_core.api import AnyCriterion, Criterion
from ddn_plugins.criteria._kept import count_kept, leading

if TYPE_CHECKING:
    from torch import Tensor

    from ddn_core.api import Context, Directions


class AtLeast(Criterion, kind="at-least"):
    """Keep what another criterion keeps and, where that is fewer than `count`, the largest eigenvalues of the rest."""

    of: AnyCriterion = Field(description="Criterion to bound.", examples=[{"kind": "snr"}])
    count: PositiveInt = Field(1, description="Least number of directions; all, if there are fewer.")

    def keeps_all(self) -> bool:
        """Return whether the other criterion keeps all."""
        return self.of.keeps_all()

    def leading_directions(self, context: Context) -> int | None:
        """Return what the other criterion needs, or the least number."""
        needed = leading([self.of], context)
        return None if needed is None else max(needed, self.count)

    def select(self, directions: Directions) -> Tensor:
        """Return the indices, ascending."""
        kept = count_kept([self.of], directions)
        missing = max(0, self.count - int(kept.sum()))
        others = (kept == 0).nonzero()[:, 0]
        kept[others[max(0, len(others) - missing) :]] = 1  # eigenvalues are ascending
        return kept.nonzero()[:, 0]

"""Keep the directions of another criterion, but at least a given number."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, PositiveInt

from ddn_core.api import AnyCriterion, Criterion
from ddn_plugins.criteria._combining import common_leading_directions, count_kept

if TYPE_CHECKING:
    from torch import Tensor

    from ddn_core.api import Context, Directions


class AtLeast(Criterion, kind="at-least"):
    """Keep the directions of another criterion; below `count`, add those with the largest eigenvalues."""

    of: AnyCriterion = Field(description="Criterion whose number of directions is bounded.", examples=[{"kind": "snr"}])
    count: PositiveInt = Field(1, description="Smallest number of directions to keep; all if there are fewer.")

    def keeps_all(self) -> bool:
        """Return whether the other criterion keeps all directions."""
        return self.of.keeps_all()

    def leading_directions(self, context: Context) -> int | None:
        """Return the number that the other criterion needs, or `count` if that is larger."""
        needed = common_leading_directions([self.of], context)
        return None if needed is None else max(needed, self.count)

    def select(self, directions: Directions) -> Tensor:
        """Return the indices, ascending."""
        kept = count_kept([self.of], directions)
        missing = max(0, self.count - int(kept.sum()))
        others = (kept == 0).nonzero()[:, 0]
        kept[others[max(0, len(others) - missing) :]] = 1  # eigenvalues are ascending
        return kept.nonzero()[:, 0]

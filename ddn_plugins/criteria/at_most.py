"""What another criterion keeps, but no more than a number."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, PositiveInt

from ddn_core.api import AnyCriterion, Criterion
from ddn_plugins.criteria._kept import count_kept, leading

if TYPE_CHECKING:
    from torch import Tensor

    from ddn_core.api import Context, Directions


class AtMost(Criterion, kind="at-most"):
    """Keep what another criterion keeps and, where that is more than `count`, only its largest eigenvalues."""

    of: AnyCriterion = Field(description="Criterion to bound.", examples=[{"kind": "snr"}])
    count: PositiveInt = Field(description="Largest number of directions.", examples=[20])

    def leading_directions(self, context: Context) -> int | None:
        """Return what the other criterion needs; of one that keeps all, only the largest are."""
        return self.count if self.of.keeps_all() else leading([self.of], context)

    def select(self, directions: Directions) -> Tensor:
        """Return the indices, ascending."""
        return count_kept([self.of], directions).nonzero()[-self.count :, 0]

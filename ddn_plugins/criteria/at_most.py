"""Keep the directions of another criterion, but at most a given number."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, PositiveInt

from ddn_core.api import AnyCriterion, Criterion
from ddn_plugins.criteria._combining import common_leading_directions, count_kept

if TYPE_CHECKING:
    from torch import Tensor

    from ddn_core.api import Context, Directions


class AtMost(Criterion, kind="at-most"):
    """Keep the directions of another criterion; of more than `count`, keep those with the largest eigenvalues."""

    of: AnyCriterion = Field(description="Criterion whose number of directions is bounded.", examples=[{"kind": "snr"}])
    count: PositiveInt = Field(description="Largest number of directions to keep.", examples=[20])

    def leading_directions(self, context: Context) -> int | None:
        """Return the number that the other criterion needs, or `count` if it keeps all."""
        return self.count if self.of.keeps_all() else common_leading_directions([self.of], context)

    def select(self, directions: Directions) -> Tensor:
        """Return the indices, ascending."""
        return count_kept([self.of], directions).nonzero()[-self.count :, 0]

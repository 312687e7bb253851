"""Keep the directions that every one of several criteria keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from ddn_core.api import AnyCriterion, Criterion
from ddn_plugins.criteria._combining import common_leading_directions, count_kept

if TYPE_CHECKING:
    from torch import Tensor

    from ddn_core.api import Context, Directions


class AllOf(Criterion, kind="all-of"):
    """Keep the directions that all of the criteria keep (their intersection)."""

    of: list[AnyCriterion] = Field(
        min_length=1,
        description="Criteria that must all keep a direction.",
        examples=[[{"kind": "top-k", "k": 50}, {"kind": "snr"}]],
    )

    def keeps_all(self) -> bool:
        """Return whether every criterion keeps all directions."""
        return all(criterion.keeps_all() for criterion in self.of)

    def leading_directions(self, context: Context) -> int | None:
        """Return the number that suffices for all criteria."""
        return common_leading_directions(self.of, context)

    def select(self, directions: Directions) -> Tensor:
        """Return the indices that every criterion selects."""
        return (count_kept(self.of, directions) == len(self.of)).nonzero()[:, 0]

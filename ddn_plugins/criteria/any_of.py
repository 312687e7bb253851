"""Keep the directions that at least one of several criteria keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from ddn_core.api import AnyCriterion, Criterion
from ddn_plugins.criteria._combining import common_leading_directions, count_kept

if TYPE_CHECKING:
    from torch import Tensor

    from ddn_core.api import Context, Directions


class AnyOf(Criterion, kind="any-of"):
    """Keep the directions that any of the criteria keeps (their union)."""

    of: list[AnyCriterion] = Field(
        min_length=1,
        description="Criteria of which at least one must keep a direction.",
        examples=[[{"kind": "top-k", "k": 5}, {"kind": "snr"}]],
    )

    def keeps_all(self) -> bool:
        """Return whether some criterion keeps all directions."""
        return any(criterion.keeps_all() for criterion in self.of)

    def leading_directions(self, context: Context) -> int | None:
        """Return the number that suffices for all criteria."""
        return common_leading_directions(self.of, context)

    def select(self, directions: Directions) -> Tensor:
        """Return the indices that some criterion selects."""
        return (count_kept(self.of, directions) > 0).nonzero()[:, 0]

"""Keep the directions that none of several criteria keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from ddn_core.api import AnyCriterion, Criterion
from ddn_plugins.criteria._combining import count_kept

if TYPE_CHECKING:
    from torch import Tensor

    from ddn_core.api import Directions


class NoneOf(Criterion, kind="none-of"):
    """Keep the directions that none of the criteria keeps (the complement of their union)."""

    of: list[AnyCriterion] = Field(
        min_length=1,
        description="Criteria of which none may keep a direction.",
        examples=[[{"kind": "top-k", "k": "outputs"}]],
    )

    def select(self, directions: Directions) -> Tensor:
        """Return the indices that no criterion selects."""
        return (count_kept(self.of, directions) == 0).nonzero()[:, 0]

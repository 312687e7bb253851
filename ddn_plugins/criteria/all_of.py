"""Keep the directions that every one of several criteria keeps."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from ddn_core.api import AnyCriterion, Criterion, Directions
from ddn_plugins.criteria._kept import count_kept


class AllOf(Criterion, kind="all-of"):
    """Keep the directions that all of the criteria keep (their intersection)."""

    of: list[AnyCriterion] = Field(min_length=1, description="Criteria that must all keep a direction.")

    def select(self, directions: Directions) -> Tensor:
        """Return the indices that every criterion selects."""
        return (count_kept(self.of, directions) == len(self.of)).nonzero()[:, 0]

"""Keep the directions that at least one of several criteria keeps."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from ddn_core.api import AnyCriterion, Criterion, Directions
from ddn_plugins.criteria._kept import count_kept


class AnyOf(Criterion, kind="any-of"):
    """Keep the directions that any of the criteria keeps (their union)."""

    of: list[AnyCriterion] = Field(min_length=1, description="Criteria of which one must keep a direction.")

    def select(self, directions: Directions) -> Tensor:
        """Return the indices that some criterion selects."""
        return (count_kept(self.of, directions) > 0).nonzero()[:, 0]

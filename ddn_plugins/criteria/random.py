"""Keep directions that are drawn at random."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, PositiveInt

from ddn_core.api import Criterion

if TYPE_CHECKING:
    from torch import Tensor

    from ddn_core.api import Directions


class Random(Criterion, kind="random"):
    """Keep k directions, drawn without replacement at each step, or all if there are fewer.

    This is a control for experiments: a useful criterion beats it.
    """

    k: PositiveInt = Field(10, description="Number of directions to keep.")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of the draws.")

    def select(self, directions: Directions) -> Tensor:
        """Return the indices, ascending."""
        import torch

        order = torch.randperm(len(directions), generator=directions.context.generator(self.seed))
        return order[: self.k].sort().values

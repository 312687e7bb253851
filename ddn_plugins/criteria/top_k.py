"""Keep the k directions of largest curvature."""

from __future__ import annotations

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from ddn_core.api import Criterion, Directions


class TopK(Criterion, kind="top-k"):
    """Keep the k directions with the largest eigenvalues, or all if there are fewer.

    The choice of ViViT's examples (Dangel, Tatzel, Hennig 2022); k = number of classes follows the observation that
    as many eigenvalues stand out (Gur-Ari, Roberts, Dyer 2018).
    """

    k: PositiveInt = Field(10, description="Number of directions.")

    def leading_directions(self) -> int:
        """Return k: nothing else is looked at."""
        return self.k

    def select(self, directions: Directions) -> Tensor:
        """Return the last k indices: eigenvalues are ascending."""
        return torch.arange(len(directions))[-self.k :]

"""The largest of several dampings, direction by direction."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from ddn_core.api import AnyDamping, Damping, Directions


class Maximum(Damping, kind="maximum"):
    """δ_k = the largest of the dampings' δ_k."""

    of: list[AnyDamping] = Field(min_length=1, description="Dampings to take the largest of.")

    def damp(self, directions: Directions) -> Tensor:
        """Return the elementwise maximum."""
        return torch.stack([damping(directions) for damping in self.of]).amax(0)

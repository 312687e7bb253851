"""The sum of several dampings, direction by direction."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from ddn_core.api import AnyDamping, Damping, Directions


class Sum(Damping, kind="sum"):
    """δ_k = the sum of the dampings' δ_k."""

    of: list[AnyDamping] = Field(min_length=1, description="Dampings to add up.")

    def damp(self, directions: Directions) -> Tensor:
        """Return the elementwise sum."""
        return torch.stack([damping(directions) for damping in self.of]).sum(0)

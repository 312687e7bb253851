"""The same damping for every direction."""

from __future__ import annotations

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor

from ddn_core.api import Damping, Directions


class Constant(Damping, kind="constant"):
    """δ_k = value for every direction (Levenberg 1944)."""

    value: NonNegativeFloat = Field(1.0, description="Damping, in loss/param².")

    def uniform(self) -> float:
        """Return the value."""
        return self.value

    def damp(self, directions: Directions) -> Tensor:
        """Return the value for each direction."""
        return torch.full_like(directions.evals, self.value)

"""A plain gradient descent step, which serves as the unit of all times."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.sides.side import Side


class GradientSide(Side):
    """Forward pass, backward pass and update."""

    def direction(self) -> list[Tensor]:
        """Return the negative gradient."""
        torch.autograd.backward(self.problem.loss())
        return [-parameter.grad for parameter in self.problem.model.parameters() if parameter.grad is not None]

"""The quadratic model of the loss, `gᵀm + ½ mᵀGm`, along any move of a group, such as a step with momentum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ddn_core.engine.gram import GroupCurvature


@dataclass(frozen=True)
class QuadraticModel:
    """Slope and curvature along a move, in loss.

    Attributes:
        slope: Derivative of the loss, weight decay included.
        curvature: Curvature of the loss, weight decay included.
        loss_curvature: Curvature mᵀGm of the loss alone.
    """

    slope: float
    curvature: float
    loss_curvature: float

    @classmethod
    def along(
        cls, data: GroupCurvature, parameters: Sequence[Tensor], moves: Sequence[Tensor], decay: float
    ) -> QuadraticModel:
        """Return the model along a move.

        Args:
            data: Curvature of the group, with its gradient.
            parameters: The group's parameters.
            moves: The move, in the shapes of the parameters.
            decay: Coefficient w of the L2 weight decay, whose `½ w ‖θ‖²` belongs to the loss.
        """
        vectors = [move[None].to(data.capture.dtype) for move in moves]
        slope = float((data.gradient * data.flatten(vectors)[0]).sum(dtype=torch.float64))
        images = data.project(vectors, data.capture.lambda_samples)
        curvature = float(images.square().sum(dtype=torch.float64)) * data.lambda_scale
        if not decay:
            return cls(slope, curvature, curvature)
        products = [(own.detach() * move).sum() for own, move in zip(parameters, moves, strict=True)]
        squares = [move.square().sum() for move in moves]
        return cls(
            slope + decay * float(torch.stack(products).sum()),
            curvature + decay * float(torch.stack(squares).sum()),
            curvature,
        )

    def decrease(self, factor: float = 1.0) -> float:
        """Return the decrease of the loss along a multiple of the move."""
        return -(factor * self.slope + 0.5 * factor**2 * self.curvature)

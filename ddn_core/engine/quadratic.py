"""The quadratic model of the loss, `gᵀm + ½ mᵀGm`, along any move of a group: it need not be a damped Newton step."""

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
        bend: Curvature of the loss, weight decay included.
        bend_of_loss: Curvature mᵀGm of the loss alone.
    """

    slope: float
    bend: float
    bend_of_loss: float

    @classmethod
    def along(
        cls, data: GroupCurvature, parameters: Sequence[Tensor], moves: Sequence[Tensor], decay: float
    ) -> QuadraticModel:
        """Return the model along a move.

        Args:
            data: Curvature that gradient and GGN are of.
            parameters: The group's parameters.
            moves: The move, in their shapes.
            decay: Coefficient w of the L2 weight decay, whose `½ w ‖θ‖²` belongs to the loss.
        """
        vectors = [move[None].to(data.capture.dtype) for move in moves]
        slope = float((data.gradient * data.flatten(vectors)[0]).sum())
        images = data.project(vectors, data.capture.lambda_samples)
        bend = float(images.square().sum()) * data.lambda_scale
        if not decay:
            return cls(slope, bend, bend)
        products = [(own.detach() * move).sum() for own, move in zip(parameters, moves, strict=True)]
        squares = [move.square().sum() for move in moves]
        return cls(
            slope + decay * float(torch.stack(products).sum()), bend + decay * float(torch.stack(squares).sum()), bend
        )

    def decrease(self, factor: float = 1.0) -> float:
        """Return by how much the loss decreases along a multiple of the move."""
        return -(factor * self.slope + 0.5 * factor**2 * self.bend)

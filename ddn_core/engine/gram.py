"""The Gram matrix of a group: the sum of its factors' inner products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Size, Tensor

from ddn_core.engine.capture import Capture
from ddn_core.engine.factors import Factor


@dataclass(frozen=True, eq=False)
class GroupCurvature:
    """V and the per-sample gradients of one group, as the sum over its parameters' factors.

    Attributes:
        capture: What the backward pass gave.
        factors: A factor for each parameter of the group, `None` for one that the loss does not reach.
        shapes: Shapes of the group's parameters, in order.
    """

    capture: Capture
    factors: tuple[Factor | None, ...]
    shapes: tuple[Size, ...]

    @classmethod
    def of(cls, capture: Capture, parameters: Sequence[Tensor]) -> GroupCurvature:
        """Return the curvature of a group of parameters."""
        return cls(
            capture=capture,
            factors=tuple(capture.factors.get(id(parameter)) for parameter in parameters),
            shapes=tuple(parameter.shape for parameter in parameters),
        )

    @property
    def _reached(self) -> list[Factor]:
        return [factor for factor in self.factors if factor is not None]

    def gram(self) -> Tensor:
        """Return the Gram matrix VᵀV, `[R, R]`, in loss/param²."""
        gram = self.capture.zeros(self.capture.columns, self.capture.columns)
        for factor in self._reached:
            gram += factor.root.inner(factor.root)
        return gram

    @cached_property
    def gradient_products(self) -> Tensor:
        """VᵀG, the inner products of the columns of V with the per-sample gradients, `[R, N_grad]`."""
        products = self.capture.zeros(self.capture.columns, self.capture.samples_grad)
        for factor in self._reached:
            products += factor.root.inner(factor.gradient)
        return products

    def combine(self, weights: Tensor) -> tuple[Tensor, ...]:
        """Return V · weights.

        Args:
            weights: Tensor `[R, K]`.

        Returns:
            For each parameter of the group a tensor `[K, *parameter.shape]`; zeros for one that is not reached.
        """
        return tuple(
            factor.root.combine(weights)
            if factor is not None
            else torch.zeros(weights.shape[1], *shape, dtype=weights.dtype, device=weights.device)
            for factor, shape in zip(self.factors, self.shapes, strict=True)
        )

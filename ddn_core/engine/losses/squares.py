"""Squared errors, `Σ w (z - t)²`."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Generator, Tensor

from ddn_core.engine.losses.term import LossTerm
from ddn_core.engine.sample_axis import SampleAxis


class SquaredError(LossTerm):
    """Squared error between model output and target."""

    kinds = ("MseLoss",)
    inputs = (0, 1)

    def read_output(self) -> Tensor:
        """Return the model output."""
        output: Tensor = self.node._saved_target if self.number else self.node._saved_self
        return output.detach()

    @property
    def weights(self) -> Tensor:
        """Weights of the elements."""
        return self.weight

    def exact(self, samples: SampleAxis) -> Tensor:
        """Return the exact root, `[C, *output]`."""
        return samples.separate(self._slope.expand_as(self.output))

    def sampled(self, count: int, generator: Generator | None) -> Tensor:
        """Return a Monte-Carlo root, `[count, *output]`."""
        shape = (count, *self.output.shape)
        noise = torch.randn(shape, dtype=self.dtype, device=self.output.device, generator=generator)
        root: Tensor = noise * (self._slope / count**0.5)
        return root

    def coefficients(self, samples: SampleAxis) -> Tensor:
        """Return the coefficients of the gradient in the exact root, `[N, C]`."""
        return samples.split(self._slope * self._residual).flatten(1)

    @property
    def slope(self) -> Tensor:
        """Gradient with respect to the model output, `2 w (z - t)`."""
        return 2 * self.element_weight() * self._residual

    @property
    def slope_terms(self) -> Tensor:
        """Sizes of `2 w z`; those of the targets are alike."""
        return 2 * self.element_weight().abs() * self.output.abs()

    def hold(self) -> None:
        """Keep the target."""
        self._target  # noqa: B018  # a cached property

    def curvature_along(self, vector: Tensor) -> Tensor:
        """Return `2 w v²` for each output."""
        return 2 * self.element_weight() * vector.square()

    @cached_property
    def _residual(self) -> Tensor:
        """Return z - t."""
        return self.output - self._target

    @cached_property
    def _target(self) -> Tensor:
        """Return t."""
        target: Tensor = self.node._saved_self if self.number else self.node._saved_target
        return target.detach()

    @cached_property
    def _slope(self) -> Tensor:
        """Return √(2 w)."""
        return (2 * self.element_weight()).sqrt()

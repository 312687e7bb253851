"""Batch normalization with running statistics: the weight scales each channel."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from ddn_core.engine.factors.family import WeightFamily


@dataclass(frozen=True)
class BatchNormFamily(WeightFamily):
    """A group for each channel, with one output, and with the normalized input as its one feature.

    Attributes:
        channels: Number of channels.
        mean: Mean of each channel, `[channels]`.
        variance: Variance of each channel, `[channels]`.
        eps: Number that is added to the variance.
    """

    channels: int
    mean: Tensor = field(compare=False)
    variance: Tensor = field(compare=False)
    eps: float

    @property
    def matrix_shape(self) -> tuple[int, int, int]:
        """Shape `(channels, 1, 1)`."""
        return self.channels, 1, 1

    def root(self, backpropagated: Tensor) -> Tensor:
        """Return the root `[b, a, channels, 1, L]` of columns `[b, a, channels, *positions]`."""
        return backpropagated.reshape(*backpropagated.shape[:2], self.channels, 1, -1)

    def features_of(self, values: Tensor) -> Tensor:
        """Return the normalized input, `[b, channels, L, 1]`."""
        mean, variance = self.mean.to(values.dtype), self.variance.to(values.dtype)
        channels = values.reshape(values.shape[0], self.channels, -1)
        return ((channels - mean[:, None]) * (variance[:, None] + self.eps).rsqrt())[..., None]

    def probe(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return a probe and its response; with a probe of ones, the response is the one feature."""
        return values.new_ones(self.channels, 1), self.features_of(values)[..., 0]

    def to_weights(self, matrices: Tensor) -> Tensor:
        """Return weight vectors `[K, channels]`."""
        return matrices[:, :, 0, 0]

    def to_matrices(self, weights: Tensor) -> Tensor:
        """Return weight matrices `[K, channels, 1, 1]`."""
        return weights[:, :, None, None]

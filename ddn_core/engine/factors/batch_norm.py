"""Batch normalization with running statistics: the weight scales each channel."""

from __future__ import annotations

from torch import Tensor, nn

from ddn_core.engine.factors.family import LayerFamily
from ddn_core.errors import CurvatureError

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


class BatchNormFamily(LayerFamily):
    """A group for each channel, with one output, and with the normalized input as its one feature."""

    def check(self, layer: BatchNorm) -> None:
        """Check that the layer keeps the samples of a batch apart.

        Raises:
            CurvatureError: The layer is in training mode, or has no running statistics.
        """
        if layer.training or layer.running_mean is None:
            raise CurvatureError(
                f"{type(layer).__name__} is in training mode or without running statistics. It then mixes the samples "
                "of a batch, so that no per-sample curvature exists. Put it in evaluation mode (layer.eval()), or "
                "leave it out of the model."
            )

    def groups(self, layer: BatchNorm) -> int:
        """Return the number of channels."""
        return layer.num_features

    def root(self, layer: BatchNorm, backpropagated: Tensor) -> Tensor:
        """Return the root `[b, a, channels, 1, L]`."""
        return backpropagated.reshape(*backpropagated.shape[:2], layer.num_features, 1, -1)

    def features(self, layer: BatchNorm, values: Tensor) -> Tensor:
        """Return the normalized input, `[b, channels, L, 1]`."""
        assert layer.running_mean is not None  # `check` has raised otherwise
        assert layer.running_var is not None
        mean, variance = layer.running_mean.to(values.dtype), layer.running_var.to(values.dtype)
        channels = values.reshape(values.shape[0], layer.num_features, -1)
        return ((channels - mean[:, None]) * (variance[:, None] + layer.eps).rsqrt())[..., None]

    def probe(self, layer: BatchNorm, values: Tensor, features: int) -> tuple[Tensor, Tensor]:
        """Return a probe and its response; with a probe of ones, the response is the one feature."""
        return values.new_ones(layer.num_features, 1), self.features(layer, values)[..., 0]

    def to_weights(self, layer: BatchNorm, matrices: Tensor) -> Tensor:
        """Return weight vectors `[K, channels]`."""
        return matrices[:, :, 0, 0]

    def to_matrices(self, layer: BatchNorm, weights: Tensor) -> Tensor:
        """Return weight matrices `[K, channels, 1, 1]`."""
        return weights[:, :, None, None]

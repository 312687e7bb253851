"""The families of the layers whose parameters can be in a group."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ddn_core.engine.factors import (
    BatchNormFamily,
    ConvolutionFamily,
    EmbeddingFamily,
    LinearFamily,
    TransposedConvolutionFamily,
    WeightFamily,
)
from ddn_core.errors import CurvatureError

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


def family_of(layer: nn.Module) -> WeightFamily:
    """Return the family of a layer whose type is in `FAMILIES`.

    Raises:
        CurvatureError: The layer is configured in a way that no family describes.
    """
    return FAMILIES[type(layer)](layer)


def _linear(layer: nn.Linear) -> LinearFamily:
    outputs, features = layer.weight.shape
    return LinearFamily(1, outputs, features, (outputs, features))


def _convolution(layer: Any) -> ConvolutionFamily:
    _check_padding(layer)
    return ConvolutionFamily(tuple(layer.weight.shape), layer.stride, layer.padding, layer.dilation, layer.groups)


def _transposed_convolution(layer: Any) -> TransposedConvolutionFamily:
    _check_padding(layer)
    return TransposedConvolutionFamily(
        tuple(layer.weight.shape), layer.stride, layer.padding, layer.dilation, layer.groups, layer.output_padding
    )


def _check_padding(layer: Any) -> None:
    """Check that a convolution pads with given numbers of zeros."""
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        raise CurvatureError(
            f"{type(layer).__name__} with padding={layer.padding!r} and padding_mode={layer.padding_mode!r} is not "
            "supported. Give the padding as numbers, with padding_mode='zeros'."
        )


def _batch_norm(layer: BatchNorm) -> BatchNormFamily:
    if layer.training or layer.running_mean is None or layer.running_var is None:
        raise CurvatureError(
            f"{type(layer).__name__} is in training mode or without running statistics. It then mixes the samples "
            "of a batch, so that no per-sample curvature exists. Put it in evaluation mode (layer.eval()), or "
            "leave it out of the model."
        )
    return BatchNormFamily(layer.num_features, layer.running_mean, layer.running_var, layer.eps)


def _embedding(layer: nn.Embedding) -> EmbeddingFamily:
    defaults = {"padding_idx": None, "max_norm": None, "scale_grad_by_freq": False, "sparse": False}
    for setting, default in defaults.items():
        if getattr(layer, setting) != default:
            raise CurvatureError(f"Embedding with {setting} set is not supported. Leave {setting} at {default}.")
    dtype = torch.promote_types(layer.weight.dtype, torch.float32)
    return EmbeddingFamily(layer.num_embeddings, layer.embedding_dim, dtype)


FAMILIES: dict[type[nn.Module], Callable[[Any], WeightFamily]] = {
    nn.Linear: _linear,
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _convolution),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), _transposed_convolution),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), _batch_norm),
    nn.Embedding: _embedding,
}
"""Function that makes the family of a layer, by the type of the layer."""

"""The layers that backpropagation can pass, and what a layer's parameters make of what reaches it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from backpack.core.derivatives.basederivatives import BaseDerivatives
from backpack.custom_module.branching import SumModule
from backpack.custom_module.pad import Pad
from backpack.custom_module.scale_module import ScaleModule
from backpack.custom_module.slicing import Slicing
from backpack.extensions.module_extension import ModuleExtension
from backpack.extensions.secondorder.sqrt_ggn import (
    activations,
    batchnorm_nd,
    convnd,
    convtransposend,
    custom_module,
    embedding,
    flatten,
    linear,
    pad,
    padding,
    pooling,
    slicing,
)
from torch import Tensor, nn
from torch.nn import Module
from torch.nn.functional import one_hot

from ddn_core.engine.capture.average_pooling import AveragePoolingDerivatives
from ddn_core.engine.capture.dropout import DropoutDerivatives
from ddn_core.engine.factors import Columns, DenseColumns, LinearWeightColumns
from ddn_core.errors import CurvatureError

LAYERS: dict[type[Module], type[ModuleExtension]] = {
    nn.Linear: linear.SqrtGGNLinear,
    nn.Conv1d: convnd.SqrtGGNConv1d,
    nn.Conv2d: convnd.SqrtGGNConv2d,
    nn.Conv3d: convnd.SqrtGGNConv3d,
    nn.ConvTranspose1d: convtransposend.SqrtGGNConvTranspose1d,
    nn.ConvTranspose2d: convtransposend.SqrtGGNConvTranspose2d,
    nn.ConvTranspose3d: convtransposend.SqrtGGNConvTranspose3d,
    nn.BatchNorm1d: batchnorm_nd.SqrtGGNBatchNormNd,
    nn.BatchNorm2d: batchnorm_nd.SqrtGGNBatchNormNd,
    nn.BatchNorm3d: batchnorm_nd.SqrtGGNBatchNormNd,
    nn.Embedding: embedding.SqrtGGNEmbedding,
    nn.ReLU: activations.SqrtGGNReLU,
    nn.Sigmoid: activations.SqrtGGNSigmoid,
    nn.Tanh: activations.SqrtGGNTanh,
    nn.LeakyReLU: activations.SqrtGGNLeakyReLU,
    nn.LogSigmoid: activations.SqrtGGNLogSigmoid,
    nn.ELU: activations.SqrtGGNELU,
    nn.SELU: activations.SqrtGGNSELU,
    nn.MaxPool1d: pooling.SqrtGGNMaxPool1d,
    nn.MaxPool2d: pooling.SqrtGGNMaxPool2d,
    nn.MaxPool3d: pooling.SqrtGGNMaxPool3d,
    nn.ZeroPad2d: padding.SqrtGGNZeroPad2d,
    nn.Flatten: flatten.SqrtGGNFlatten,
    nn.Identity: custom_module.SqrtGGNScaleModule,
    ScaleModule: custom_module.SqrtGGNScaleModule,
    SumModule: custom_module.SqrtGGNSumModule,
    Pad: pad.SqrtGGNPad,
    Slicing: slicing.SqrtGGNSlicing,
}
"""Layers that BackPACK backpropagates the square root of the GGN through."""

OWN_LAYERS: dict[type[Module], type[AveragePoolingDerivatives] | type[DropoutDerivatives]] = {
    nn.AvgPool1d: AveragePoolingDerivatives,
    nn.AvgPool2d: AveragePoolingDerivatives,
    nn.AvgPool3d: AveragePoolingDerivatives,
    nn.AdaptiveAvgPool1d: AveragePoolingDerivatives,
    nn.AdaptiveAvgPool2d: AveragePoolingDerivatives,
    nn.AdaptiveAvgPool3d: AveragePoolingDerivatives,
    nn.Dropout: DropoutDerivatives,
}
"""Layers with derivatives of our own."""


CONVOLUTIONS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)


def layer_derivatives() -> dict[type[Module], BaseDerivatives]:
    """Return the derivatives of every supported layer."""
    derivatives = {layer: extension().derivatives for layer, extension in LAYERS.items()}
    return derivatives | {layer: own() for layer, own in OWN_LAYERS.items()}


def check_layer(layer: Module) -> None:
    """Raise if a supported layer is set up in a way that BackPACK's derivatives do not describe.

    Raises:
        CurvatureError: A batch normalization layer mixes the samples, a convolution pads otherwise than by given
            numbers of zeros, or a transposed one has output padding.
    """
    name = type(layer).__name__
    if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
        if layer.training or layer.running_mean is None:
            raise CurvatureError(
                f"{name} is in training mode or without running statistics, where it mixes the samples of a batch, so "
                "that no per-sample curvature exists. Put it in evaluation mode (layer.eval()), or leave it out."
            )
    elif isinstance(layer, CONVOLUTIONS):
        if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
            raise CurvatureError(
                f"{name} with padding={layer.padding!r} and padding_mode={layer.padding_mode!r} is not supported. Give "
                "the padding as numbers, with padding_mode='zeros'."
            )
        if any(layer.output_padding):
            raise CurvatureError(f"{name} with output_padding={layer.output_padding} is not supported. Leave it at 0.")


def unsupported_layer(layer: Module) -> CurvatureError:
    """Return the error for a module that backpropagation cannot pass."""
    supported = ", ".join(sorted({kind.__name__ for kind in (*LAYERS, *OWN_LAYERS)}))
    return CurvatureError(
        f"layer {type(layer).__name__} ({type(layer).__module__}) is not supported. Replace it by supported layers "
        f"({supported}); for a model with code of its own in `forward`, try "
        "`backpack.extend(model, use_converter=True)`."
    )


def layer_columns(
    layer: Module, name: str, derivatives: BaseDerivatives, backpropagated: Tensor, subsampling: Sequence[int] | None
) -> Columns:
    """Return the columns of V, or the per-sample gradients, that belong to one parameter of a layer.

    Args:
        layer: Layer after its forward pass.
        name: Name of the parameter in the layer.
        derivatives: BackPACK's derivatives of the layer.
        backpropagated: Vectors backpropagated to the layer output, `[A, B, *output]`.
        subsampling: Indices of the B samples; all by default.
    """
    kept: Any = layer.input0
    layer_input: Tensor = kept.detach()
    if subsampling is not None:
        layer_input = layer_input[list(subsampling)]
    if name not in ("weight", "bias") or not hasattr(derivatives, f"_{name}_jac_t_mat_prod"):
        raise CurvatureError(
            f"parameter {name!r} of layer {type(layer).__name__} is not supported (pruning and reparametrizations add "
            "such). Leave it out of the parameter groups, or freeze it with requires_grad_(False)."
        )
    if isinstance(layer, nn.Linear):
        positions = backpropagated.reshape(*backpropagated.shape[:2], -1, backpropagated.shape[-1])  # [A, B, L, out]
        if name == "bias":
            return DenseColumns(positions.sum(2).flatten(0, 1))
        return LinearWeightColumns(positions, layer_input.reshape(layer_input.shape[0], -1, layer_input.shape[-1]))
    if isinstance(layer, nn.Embedding):
        return DenseColumns(_embedding_columns(layer, backpropagated, layer_input))
    columns = derivatives.param_mjp(
        name,
        layer,
        None,
        None,
        backpropagated,
        sum_batch=False,
        subsampling=None if subsampling is None else list(subsampling),
    )
    return DenseColumns(columns.flatten(0, 1))


def _embedding_columns(layer: nn.Embedding, backpropagated: Tensor, indices: Tensor) -> Tensor:
    for setting, default in {
        "padding_idx": None,
        "max_norm": None,
        "scale_grad_by_freq": False,
        "sparse": False,
    }.items():
        if getattr(layer, setting) != default:
            raise CurvatureError(f"Embedding with {setting} set is not supported. Leave {setting} at {default}.")
    columns, samples = backpropagated.shape[:2]
    chosen = one_hot(indices.reshape(samples, -1), layer.num_embeddings).to(backpropagated.dtype)  # [B, L, S]
    vectors = backpropagated.reshape(columns, samples, -1, layer.embedding_dim)  # [A, B, L, H]
    return torch.einsum("bls,ablh->absh", chosen, vectors).flatten(0, 1)

"""The networks of the benchmark problems, written out with modules that BackPACK, and so ViViT, can extend.

Widths, kernels and strides are those of DeepOBS (Schneider, Balles, Hennig 2019) and, for ResNet-32, of He et al. 2016.
Dropout is left out, because with dropout each side would compute a different step.
"""

from __future__ import annotations

from benchmarks.architectures.architecture import Architecture, Size
from benchmarks.architectures.convolutional import ALL_CNN_C, THREE_C_THREE_D, TWO_C_TWO_D
from benchmarks.architectures.perceptron import MLP_64, MLP_784, MLP_DEEP
from benchmarks.architectures.residual import RESNET_32

ARCHITECTURES: dict[str, Architecture] = {
    "mlp-64": MLP_64,
    "mlp-784": MLP_784,
    "2c2d": TWO_C_TWO_D,
    "3c3d": THREE_C_THREE_D,
    "all-cnn-c": ALL_CNN_C,
    "resnet-32": RESNET_32,
    "mlp-deep": MLP_DEEP,
}
"""Every network by its name in cases; only the part on growth over depth uses the last one."""

PROBLEMS = tuple(name for name in ARCHITECTURES if name != "mlp-deep")
"""Names of the problems in the comparison with ViViT."""

__all__ = ["ARCHITECTURES", "PROBLEMS", "Architecture", "Size"]

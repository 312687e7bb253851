"""The plain convolutional networks of DeepOBS: 2C2D, 3C3D and All-CNN-C.

TensorFlow's "same" padding of strided layers adds a row and a column on one side only. Here, a `ZeroPad2d` before the
layer does that. Zeros are also correct before a max-pooling, because its inputs come from a ReLU and are not negative.
"""

from __future__ import annotations

from torch import nn

from benchmarks.architectures.architecture import Architecture, Size

_SAME_ON_ONE_SIDE = (0, 1, 0, 1)


def _two_c_two_d(size: Size) -> nn.Sequential:
    """Return two convolutions and two linear layers, for 28x28 pixels."""
    first, second, hidden = 32 * size.width, 64 * size.width, 1024 * size.width
    return nn.Sequential(
        nn.Conv2d(1, first, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(first, second, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(second * 7 * 7, hidden),
        nn.ReLU(),
        nn.Linear(hidden, size.classes),
    )


def _three_c_three_d(size: Size) -> nn.Sequential:
    """Return three convolutions and three linear layers, for 32x32 pixels in three colours."""
    first, second, third = 64 * size.width, 96 * size.width, 128 * size.width
    return nn.Sequential(
        nn.Conv2d(3, first, 5),
        nn.ReLU(),
        nn.ZeroPad2d(_SAME_ON_ONE_SIDE),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(first, second, 3),
        nn.ReLU(),
        nn.ZeroPad2d(_SAME_ON_ONE_SIDE),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(second, third, 3, padding=1),
        nn.ReLU(),
        nn.ZeroPad2d(_SAME_ON_ONE_SIDE),
        nn.MaxPool2d(3, stride=2),
        nn.Flatten(),
        nn.Linear(third * 3 * 3, 512 * size.width),
        nn.ReLU(),
        nn.Linear(512 * size.width, 256 * size.width),
        nn.ReLU(),
        nn.Linear(256 * size.width, size.classes),
    )


def _all_cnn_c(size: Size) -> nn.Sequential:
    """Return nine convolutions and an average over the pixels, for 32x32 pixels in three colours."""
    narrow, wide = 96 * size.width, 192 * size.width
    return nn.Sequential(
        nn.Conv2d(3, narrow, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(narrow, narrow, 3, padding=1),
        nn.ReLU(),
        nn.ZeroPad2d(_SAME_ON_ONE_SIDE),
        nn.Conv2d(narrow, narrow, 3, stride=2),
        nn.ReLU(),
        nn.Conv2d(narrow, wide, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(wide, wide, 3, padding=1),
        nn.ReLU(),
        nn.ZeroPad2d(_SAME_ON_ONE_SIDE),
        nn.Conv2d(wide, wide, 3, stride=2),
        nn.ReLU(),
        nn.Conv2d(wide, wide, 3),
        nn.ReLU(),
        nn.Conv2d(wide, wide, 1),
        nn.ReLU(),
        nn.Conv2d(wide, size.classes, 1),
        nn.ReLU(),
        nn.AvgPool2d(6),
        nn.Flatten(),
    )


TWO_C_TWO_D = Architecture("2C2D", _two_c_two_d, Size(), (1, 28, 28), samples=16, samples_monte_carlo=16)
THREE_C_THREE_D = Architecture("3C3D", _three_c_three_d, Size(), (3, 32, 32), samples=32, samples_monte_carlo=32)
ALL_CNN_C = Architecture("All-CNN-C", _all_cnn_c, Size(classes=100), (3, 32, 32), samples=4, samples_monte_carlo=32)

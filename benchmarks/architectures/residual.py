"""The residual network for 32x32 pixels of He et al. 2016, with branches that BackPACK can follow.

Shortcuts have no parameters (option A): where a block halves the resolution and doubles the channels, the shortcut
keeps every second pixel and fills the new channels with zeros. A max-pooling over one pixel selects the pixels. A slice
would be a view of its input, and BackPACK distinguishes tensors by the address of their data.
"""

from __future__ import annotations

from backpack.custom_module.branching import Parallel
from backpack.custom_module.pad import Pad
from torch import nn

from benchmarks.architectures.architecture import Architecture, Size

_STAGES = 3
_LAYERS_PER_BLOCK = 2


def _block(inputs: int, outputs: int) -> list[nn.Module]:
    """Return a residual block; it halves the resolution if the number of channels grows."""
    stride = 1 if inputs == outputs else 2
    body = nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
    )
    return [Parallel(nn.Identity() if stride == 1 else _shortcut(outputs - inputs), body), nn.ReLU()]


def _shortcut(new_channels: int) -> nn.Sequential:
    half = new_channels // 2
    return nn.Sequential(nn.MaxPool2d(1, stride=2), Pad((0, 0, 0, 0, half, new_channels - half)))


def _resnet(size: Size) -> nn.Sequential:
    """Return a residual network of `size.depth` layers with parameters, 6 n + 2 for n blocks a stage."""
    blocks, rest = divmod(size.depth - 2, _STAGES * _LAYERS_PER_BLOCK)
    if rest or blocks < 1:
        raise ValueError(f"A residual network has 6 n + 2 layers (8, 14, 20, ...), not {size.depth}.")
    channels = [16 * size.width, 32 * size.width, 64 * size.width]
    layers: list[nn.Module] = [
        nn.Conv2d(3, channels[0], 3, padding=1, bias=False),
        nn.BatchNorm2d(channels[0]),
        nn.ReLU(),
    ]
    before = channels[0]
    for stage in channels:
        for _ in range(blocks):
            layers += _block(before, stage)
            before = stage
    return nn.Sequential(*layers, nn.AvgPool2d(8), nn.Flatten(), nn.Linear(channels[-1], size.classes))


RESNET_32 = Architecture("ResNet-32", _resnet, Size(depth=32), (3, 32, 32), samples=8, samples_monte_carlo=8)

"""In which order the entries of images lie in memory: with channels last for convolutions and pooling on a CPU.

Convolutions of few channels are up to four times faster there when channels come last, and the places of the largest
pixels are found ten times faster (`docs/performance.md`). What follows keeps the order that it finds.
"""

from __future__ import annotations

import torch
from torch import Tensor


def channels_last(images: Tensor) -> Tensor:
    """Return images `[n, channels, height, width]` on a CPU with channels last in memory; other tensors as they are."""
    if images.dim() != 4 or images.device.type != "cpu":
        return images
    return images.contiguous(memory_format=torch.channels_last)


def ordered_like(tensor: Tensor, model: Tensor) -> Tensor:
    """Return a tensor in the order in memory of another one; batches of images of one shape."""
    last = model.dim() == 4 and model.is_contiguous(memory_format=torch.channels_last)
    return tensor.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)

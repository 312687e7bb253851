"""The order of image entries in memory: channels last for convolutions and pooling on a CPU.

With channels last on a CPU, convolutions of few channels are up to four times faster, and max pooling finds the largest
pixels ten times faster (`docs/performance.md`). Later operations keep this order.
"""

from __future__ import annotations

import torch
from torch import Tensor


def channels_last(images: Tensor) -> Tensor:
    """Return images `[n, channels, height, width]` on a CPU with channels last in memory; other tensors unchanged."""
    if images.dim() != 4 or images.device.type != "cpu":
        return images
    return images.contiguous(memory_format=torch.channels_last)


def ordered_like(tensor: Tensor, model: Tensor) -> Tensor:
    """Return a tensor with the memory order of another tensor; both are batches of images of the same shape."""
    last = model.dim() == 4 and model.is_contiguous(memory_format=torch.channels_last)
    return tensor.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)

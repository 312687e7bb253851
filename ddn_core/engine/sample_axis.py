"""Where the samples of a batch are in a tensor: along one axis, alone or together with positions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SampleAxis:
    """The axis along which the samples of a tensor lie.

    An axis of length N has the samples alone. An axis of length `N · r` has r positions of each sample: side by side
    if the samples are major (`[N, r]`), or one position of all samples after the other if they are minor (`[r, N]`).

    In the shapes below, `*shape` is the shape of the tensor itself, `*leading` stands for axes in front of it, and
    `*rest` is `*shape` with r in place of `N · r`.

    Attributes:
        samples: Number of samples N.
        axis: Number of the axis.
        is_major: True if the samples are the major index of the axis.
    """

    samples: int
    axis: int = 0
    is_major: bool = True

    def split(self, tensor: Tensor, leading: int = 0) -> Tensor:
        """Return a tensor `[*leading, *shape]` as `[N, *leading, *rest]`."""
        place = leading + self.axis
        positions = tensor.shape[place] // self.samples
        if place == 0 and self.is_major:
            return tensor.reshape(self.samples, positions, *tensor.shape[1:])
        if positions == 1:
            return tensor.movedim(place, 0).unsqueeze(place + 1)
        if self.is_major:
            return torch.unflatten(tensor, place, (self.samples, positions)).movedim(place, 0)
        return torch.unflatten(tensor, place, (positions, self.samples)).movedim(place + 1, 0)

    def sums(self, tensor: Tensor) -> Tensor:
        """Return the sum of each sample's elements of a tensor `[*shape]`, `[N]`."""
        if self.axis == 0 and len(tensor) == self.samples:
            return tensor if tensor.dim() == 1 else tensor.flatten(1).sum(1)
        return self.split(tensor).flatten(1).sum(1)

    def join(self, tensor: Tensor, leading: int = 0) -> Tensor:
        """Return a tensor `[N, *leading, *rest]` as `[*leading, *shape]`: the inverse of `split`."""
        place = leading + self.axis
        moved = tensor.movedim(0, place if self.is_major else place + 1)
        return moved.flatten(place, place + 1)

    def spread(self, values: Tensor, shape: tuple[int, ...] | torch.Size) -> Tensor:
        """Return one number for each sample, `[N]`, in a shape that broadcasts against `[*leading, *shape]`."""
        positions = shape[self.axis] // self.samples
        if positions > 1:
            values = values.repeat_interleave(positions) if self.is_major else values.repeat(positions)
        return values.reshape(-1, *(1,) * (len(shape) - self.axis - 1))

    def mask(self, columns: Tensor) -> Tensor:
        """Return columns `[K, *shape]` as `[N, K, *shape]`, zero outside of one sample each."""
        shape = columns.shape[1:]
        units = torch.eye(self.samples, dtype=columns.dtype, device=columns.device)
        masks = torch.stack([self.spread(unit, shape).expand(shape[self.axis :]) for unit in units])
        return columns[None] * masks.reshape(self.samples, 1, *(1,) * self.axis, *shape[self.axis :])

    def separate(self, values: Tensor) -> Tensor:
        """Return values `[*shape]` as columns `[C, *shape]`: column c has the values of element c of every sample."""
        apart = self.split(values)
        columns = torch.diag_embed(apart.flatten(1)).transpose(0, 1)  # [C, N, C]
        return self.join(columns.reshape(-1, *apart.shape).transpose(0, 1), leading=1)

    def elements(self, shape: tuple[int, ...] | torch.Size) -> int:
        """Return the number of elements of one sample."""
        return math.prod(shape) // self.samples

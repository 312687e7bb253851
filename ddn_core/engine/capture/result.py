"""What a backward pass gives: a factor for each parameter, and the sizes that go with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ddn_core.engine.factors import Factor


@dataclass(frozen=True, eq=False)
class Capture:
    """Factors of every captured parameter, from one backward pass.

    Attributes:
        factors: By `id` of the parameter; a parameter that the loss does not reach has none.
        columns_per_sample: C for the exact GGN, M with Monte-Carlo samples.
        samples_ggn: Number of samples in the GGN.
        samples_grad: Number of samples in the gradient.
        reduction: Reduction of the loss over the samples.
        loss: Value of the loss, with the constant it was multiplied by.
        dtype: Dtype of the model output, used where a group has no factor.
        device: Device of the model output.
    """

    factors: Mapping[int, Factor]
    columns_per_sample: int
    samples_ggn: int
    samples_grad: int
    reduction: Literal["mean", "sum"]
    loss: float
    dtype: torch.dtype
    device: torch.device

    @property
    def columns(self) -> int:
        """Number of columns of V, R."""
        return self.columns_per_sample * self.samples_ggn

    def zeros(self, *shape: int) -> Tensor:
        """Return zeros in the dtype and on the device of this capture."""
        return torch.zeros(*shape, dtype=self.dtype, device=self.device)

"""What a backward pass gives: the factors, and what is needed to read gradients and curvatures off them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from ddn_core.engine.factors import Factor


@dataclass(frozen=True, eq=False)
class Capture:
    """Factors of the wanted parameters, from one backward pass.

    The factors' roots have columns for the samples of the GGN, and for those of the directional curvatures and of the
    gradient that are not among them; positions count the samples of the factors.

    Attributes:
        factors: One for the parameters of each layer and group that the loss reaches.
        columns_per_sample: C for the exact GGN, M with Monte-Carlo samples.
        outputs: Number of outputs C of the model for each sample.
        samples: Number of samples that the factors have columns for.
        ggn_samples: Positions of the samples of the GGN; a range if the GGN has all samples.
        lambda_samples: Positions of the samples of the directional curvatures.
        grad_samples: Positions of the samples of the gradient, where it is a combination of the root's columns.
        grad_count: Number of samples in the gradient.
        coefficients: Coefficients of the per-sample gradients in the root's columns, `[samples, C]`: `g_n = V_n c_n`;
            `None` where the gradients are not in the span of V.
        gradient_scale: By what the factors' gradients are multiplied to be those of the samples, not divided by their
            number; no copy is made for it.
        gradients: By `id` of a parameter, its gradient; only where the gradients are not in the span of V and all
            samples are in the gradient.
        reduction: Reduction of the loss over the samples.
        loss: Value of the loss, with the constant it was multiplied by.
        dtype: Dtype that curvature is computed in.
        device: Device of the model output.
        seconds: What it took beyond the gradient, by the host's clock.
    """

    factors: tuple[Factor, ...]
    columns_per_sample: int
    outputs: int
    samples: int
    ggn_samples: Sequence[int]
    lambda_samples: Sequence[int]
    grad_samples: Sequence[int]
    grad_count: int
    coefficients: Tensor | None
    gradient_scale: float
    gradients: Mapping[int, Tensor]
    reduction: Literal["mean", "sum"]
    loss: float
    dtype: torch.dtype
    device: torch.device
    seconds: float = 0.0

    def covers_all(self, positions: Sequence[int]) -> bool:
        """Return whether these are the positions of all samples, in order."""
        every = range(self.samples)
        return positions == every or (len(positions) == self.samples and tuple(positions) == tuple(every))

    @cached_property
    def reached(self) -> frozenset[int]:
        """`id`s of the wanted parameters that the loss reaches."""
        return frozenset(key for factor in self.factors for key in factor.parameters)

    @property
    def columns(self) -> int:
        """Number of columns of V, R."""
        return self.columns_per_sample * len(self.ggn_samples)

    def zeros(self, *shape: int) -> Tensor:
        """Return zeros in the dtype and on the device of this capture."""
        return torch.zeros(*shape, dtype=self.dtype, device=self.device)

"""The result of a backward pass: factors, and the data that gradients and curvatures are computed from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from ddn_core.engine.factors import Factor
from ddn_core.engine.losses import unit_of_root

SMALL_WEIGHT = 1e-20
"""Weight of an element in a loss below which the loss counts as multiplied by a small number."""


@dataclass(frozen=True, eq=False)
class Capture:
    """Factors of the wanted parameters, from one backward pass.

    The factors' roots have columns for the samples of the GGN and of the directional curvatures, or for the whole batch
    if the GGN has all samples. An index of a sample counts the samples of the factors, not those of the batch.

    Attributes:
        factors: A factor for each layer and group with parameters that the loss reaches.
        columns_per_sample: C for the exact GGN, M with Monte-Carlo samples.
        outputs: Number of outputs C of the model for each sample.
        samples: Number of samples with columns in the factors.
        ggn_samples: Indices of the samples of the GGN; a range if the GGN has all samples.
        lambda_samples: Indices of the samples of the directional curvatures.
        grad_samples: Indices of the samples of the gradient; empty unless the gradient is in the span of V.
        grad_count: Number of samples in the gradient.
        coefficients: Coefficients of the per-sample gradients in the root's columns, `[samples, C]`: `g_n = V_n c_n`;
            `None` if the gradients are not in the span of V.
        gradient_scale: Factor that turns the factors' per-sample gradients into those of the samples, not divided by N.
            It is kept apart to avoid a copy.
        gradients: Gradient of each parameter by `id`. Empty if the gradients are in the span of V, or if not all
            samples are in the gradient.
        is_gradient_given: Whether `gradients` were given by the caller, and take precedence over those of the samples.
        reduction: Reduction of the loss over the samples.
        loss: Value of the loss, times the constant by which it was multiplied.
        dtype: Dtype in which curvature is computed.
        device: Device of the model output.
        seconds: Wall-clock seconds of the capture at the end of the pass, on the host.
        heaviest: Largest weight of an element in the loss.
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
    is_gradient_given: bool = False
    heaviest: float = 1.0

    def covers_all(self, indices: Sequence[int]) -> bool:
        """Return whether the indices are those of all samples, in order."""
        every = range(self.samples)
        return indices == every or (len(indices) == self.samples and tuple(indices) == tuple(every))

    @property
    def unit(self) -> float:
        """Power of two near the square root of the loss; 1 for a loss of ordinary size.

        The gradient is divided by it before it is multiplied with V or with itself. These products have the size of
        the loss to the power of 1.5 or 2, which float32 cannot represent for losses beyond 1e±19.
        """
        return unit_of_root(self.loss)

    @property
    def least_curvature(self) -> float:
        """Curvature below which a step with less damping would be wrong, since the loss was made too small.

        It is the smallest normal number of the dtype, or zero for a loss that has ordinary weights: its curvature
        vanishes where all samples are fitted.
        """
        return torch.finfo(self.dtype).tiny if self.heaviest < SMALL_WEIGHT else 0.0

    @cached_property
    def reached(self) -> frozenset[int]:
        """`id`s of the wanted parameters that the loss reaches."""
        return frozenset(key for factor in self.factors for key in factor.parameters)

    @property
    def columns(self) -> int:
        """Number of columns of V, R."""
        return self.columns_per_sample * len(self.ggn_samples)

    def with_gradients(self, gradients: Mapping[int, Tensor]) -> Capture:
        """Return the same curvature, with other gradients of some parameters; those of the samples are kept.

        Args:
            gradients: Gradient of the loss by the `id` of its parameter, in the dtype of this capture.
        """
        return replace(self, gradients={**self.gradients, **gradients}, is_gradient_given=True)

    def divided(self, scale: float) -> Capture:
        """Return the capture of a loss that was not multiplied by a scale, from that of one that was.

        Columns of V, and the coefficients of the gradients in them, have the square root of the scale.
        """
        root = scale**-0.5
        return replace(
            self,
            factors=tuple(Factor(own.parameters, own.root.scaled(root), own.gradient) for own in self.factors),
            coefficients=None if self.coefficients is None else root * self.coefficients,
            gradient_scale=self.gradient_scale / scale,
            gradients={key: gradient / scale for key, gradient in self.gradients.items()},
            loss=self.loss / scale,
            heaviest=self.heaviest / scale,
        )

    def zeros(self, *shape: int) -> Tensor:
        """Return zeros in the dtype and on the device of this capture."""
        return torch.zeros(*shape, dtype=self.dtype, device=self.device)

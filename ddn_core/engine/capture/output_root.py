"""The columns at the model output: a root of the loss Hessian, scaled for the chosen samples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Generator, Tensor

from ddn_core.engine.capture.subsampling import ChosenSamples
from ddn_core.engine.losses import Root
from ddn_core.engine.losses.term import LossTerm
from ddn_core.engine.sample_axis import SampleAxis


@dataclass(frozen=True, eq=False)
class OutputRoot:
    """The root of the loss Hessian of a batch, and the gradients of its samples in terms of the root's columns.

    Attributes:
        kind: Kind of curvature.
        term: The loss at the model output.
        samples: Axis of the samples at the model output.
        chosen: Samples of the gradient, of the GGN and of the directional curvatures.
        is_mean: Whether the loss is a mean over the samples, rather than a sum.
    """

    kind: Root
    term: LossTerm
    samples: SampleAxis
    chosen: ChosenSamples
    is_mean: bool

    @property
    def spans_gradient(self) -> bool:
        """True if the per-sample gradients are combinations of columns."""
        return self.kind.spans_gradient and self.chosen.columns_cover_gradient

    def columns(self, generator: Generator | None) -> Tensor:
        """Return the columns at the model output, `[A, *output]`."""
        root = self.kind.columns(self.term, self.samples, generator)
        return root if self._scale == 1 else root * self._scale

    def factors(self, dtype: torch.dtype) -> Tensor:
        """Return the numbers that turn the gradients of the samples into their columns, `[N]`.

        Only where the column of a sample is its gradient times a number.
        """
        return (self._factors * self._scale).to(dtype)

    def coefficients(self, dtype: torch.dtype) -> Tensor:
        """Return the coefficients c of the per-sample gradients, `g_n = V_n c_n`, `[samples, A]`."""
        kind, propagated = self.kind, self.chosen.propagated_samples
        scale = (self.samples.samples if self.is_mean else 1) / self._scale
        own = kind.inverse(self._factors) if kind.follows_gradient else kind.coefficients(self.term, self.samples)
        coefficients = own.to(dtype) * scale
        return coefficients if propagated is None else coefficients[list(propagated)]

    @property
    def _scale(self) -> float:
        """Factor that scales the root, so that `G = V Vᵀ` for the samples of the GGN."""
        return math.sqrt(self.samples.samples / len(self.chosen.ggn_samples)) if self.is_mean else 1.0

    @cached_property
    def _factors(self) -> Tensor:
        """The numbers before they are scaled, `[N]`."""
        return self.kind.factors(self.term, self.samples)

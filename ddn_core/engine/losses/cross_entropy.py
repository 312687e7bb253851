"""Cross-entropy: any linear function of log-probabilities, `-Σ_v q_v log p_v`.

Class weights, `ignore_index`, label smoothing, class probabilities as targets, any reduction and log-probabilities that
are picked by indexing differ only in q, which is the derivative of the loss with respect to the log-probabilities.
"""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Generator, Tensor

from ddn_core.engine.losses.term import LossTerm
from ddn_core.engine.nodes import signed
from ddn_core.engine.sample_axis import SampleAxis
from ddn_core.errors import CurvatureError


class CrossEntropy(LossTerm):
    """Cross-entropy of a softmax along one axis of the model output."""

    kinds = ("LogSoftmax",)

    def read_output(self) -> Tensor:
        """Return the log-probabilities."""
        result: Tensor = self.node._saved_result
        return result.detach()

    @property
    def _classes(self) -> int:
        """Number of the axis of the classes."""
        return signed(self.node._saved_dim) % self.output.dim()

    @property
    def weights(self) -> Tensor:
        """Weights W of the rows of log-probabilities."""
        return self._row_weights

    def exact(self, samples: SampleAxis) -> Tensor:
        """Return the exact root, `[C, *output]`; C runs over classes first, then over the positions of a sample."""
        axis = self._classes
        self._check(samples)
        slopes = self._slopes.movedim(axis, 0)  # [v, ...]
        root = slopes.unsqueeze(axis + 1) * -self.output.exp()  # [v, *output]
        root.diagonal(dim1=0, dim2=axis + 1).add_(slopes.movedim(0, -1))
        shape = [1 if place == axis else size for place, size in enumerate(self.output.shape)]
        if math.prod(shape) == samples.samples:
            return root
        positions = samples.separate(root.new_ones(shape))  # [L, *output] with one class
        return (root[:, None] * positions).flatten(0, 1)

    def _check(self, samples: SampleAxis) -> None:
        """Raise if the softmax is over the samples.

        Raises:
            CurvatureError: It is.
        """
        if samples.axis == self._classes:
            raise CurvatureError(
                f"the softmax of the cross-entropy is along axis {self._classes} of the model output, where the "
                "samples are: the loss of a sample then depends on the others. Use an output [N, classes, ...]."
            )

    def sampled(self, count: int, generator: Generator | None) -> Tensor:
        """Return a Monte-Carlo root, `[count, *output]`."""
        probabilities = self.output.exp().movedim(self._classes, -1)
        rows = probabilities.reshape(-1, probabilities.shape[-1])
        drawn = torch.multinomial(rows, count, replacement=True, generator=generator)
        root = rows.repeat(count, 1, 1)  # [count, rows, classes]
        root.scatter_add_(2, drawn.T[..., None], root.new_full((), -1.0).expand(*drawn.T.shape, 1))
        root = root.reshape(count, *probabilities.shape).movedim(-1, self._classes + 1)
        return root * (self._row_weights.clamp(min=0) / count).sqrt()

    def coefficients(self, samples: SampleAxis) -> Tensor:
        """Return the coefficients of the gradient in the exact root, `[N, C]`."""
        slopes = self._slopes
        found = torch.where(slopes > 0, slopes + self.weight / slopes, 0.0)
        return samples.split(found).movedim(self._classes + 1, 1).flatten(1)

    @property
    def slope(self) -> Tensor:
        """Gradient with respect to the logits, `W p - q`."""
        return torch.addcmul(self.weight, self._row_weights, self._probabilities)

    @property
    def slope_terms(self) -> Tensor:
        """Sizes of `W p` and q."""
        return self._row_weights.abs() * self._probabilities + self.weight.abs()

    def hold(self) -> None:
        """Keep nothing more: log-probabilities and weights were read at once."""

    def curvature_along(self, vector: Tensor) -> Tensor:
        """Return `W p (v - v̄)²` for each output, with the mean v̄ of v under p."""
        probabilities = self._probabilities
        mean = (probabilities * vector).sum(self._classes, keepdim=True)
        return self._row_weights * probabilities * (vector - mean).square()

    @cached_property
    def _slopes(self) -> Tensor:
        """Return √W τ, with a smallest value where the gradient is divided by it."""
        slopes = (0.5 * self.output).exp() * self._row_weights.clamp(min=0).sqrt()
        return torch.maximum(slopes, self.weight.abs() / self.largest_coefficient)

    @cached_property
    def _probabilities(self) -> Tensor:
        """Return p."""
        return self.output.exp()

    @cached_property
    def _row_weights(self) -> Tensor:
        """Return W, with one class."""
        return -self.weight.sum(self._classes, keepdim=True)

"""Binary cross-entropy with logits: a Bernoulli likelihood for each output."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Generator, Tensor
from torch.nn.functional import logsigmoid

from ddn_core.engine.losses.term import LossTerm
from ddn_core.engine.sample_axis import SampleAxis


class BinaryCrossEntropy(LossTerm):
    """Binary cross-entropy with logits, `w ((1 - t) z + (1 + (a - 1) t) softplus(-z))`, with `pos_weight` a."""

    kinds = ("BinaryCrossEntropyWithLogits",)

    def read_output(self) -> Tensor:
        """Return the logits."""
        output: Tensor = self.node._saved_self
        return output.detach()

    @property
    def weights(self) -> Tensor:
        """Weights of the elements in the Hessian."""
        return self._weights

    def exact(self, samples: SampleAxis) -> Tensor:
        """Return the exact root, `[C, *output]`."""
        return samples.separate(self._slopes.expand_as(self.output))

    def sampled(self, count: int, generator: Generator | None) -> Tensor:
        """Return a Monte-Carlo root, `[count, *output]`."""
        probabilities = torch.sigmoid(self.output).expand(count, *self.output.shape)
        drawn = torch.bernoulli(probabilities, generator=generator)
        return (probabilities - drawn) * (self._weights / count).sqrt()

    def coefficients(self, samples: SampleAxis) -> Tensor:
        """Return the coefficients of the gradient in the exact root, `[N, C]`."""
        slopes = self._slopes
        found = torch.where(slopes > 0, self.slope / slopes, 0.0)
        return samples.split(found.expand_as(self.output)).flatten(1)

    @cached_property
    def slope(self) -> Tensor:
        """Gradient with respect to the logits."""
        own = self.element_weight() * self._given("weight")
        return own * ((1 - self._target) - self._positive * torch.sigmoid(-self.output))

    @property
    def slope_terms(self) -> Tensor:
        """Weight of each output, which target and probability are multiplied by."""
        return self._weights

    def hold(self) -> None:
        """Keep the gradient and the weights."""
        self.slope, self._weights  # noqa: B018  # cached properties

    def curvature_along(self, vector: Tensor) -> Tensor:
        """Return `w p (1 - p) v²` for each output."""
        logs = logsigmoid(self.output) + logsigmoid(-self.output)
        return self._weights * logs.exp() * vector.square()

    @cached_property
    def _slopes(self) -> Tensor:
        """Return `√(w p (1 - p))`, with a smallest value where the gradient is divided by it."""
        deviations = (0.5 * (logsigmoid(self.output) + logsigmoid(-self.output))).exp()
        slopes = self._weights.sqrt() * deviations
        return torch.maximum(slopes, self.slope.abs() / self.largest_coefficient)

    @cached_property
    def _weights(self) -> Tensor:
        """Return the weight of each element's `p (1 - p)` in the Hessian."""
        return self.element_weight() * self._given("weight") * self._positive

    @cached_property
    def _positive(self) -> Tensor:
        """Return `1 + (a - 1) t`."""
        return 1 + (self._given("pos_weight") - 1) * self._target

    @cached_property
    def _target(self) -> Tensor:
        target: Tensor = self.node._saved_target
        return target.detach().to(self.dtype)

    def _given(self, name: str) -> Tensor:
        """Return a weight that the user gave, or 1."""
        given: Tensor | None = getattr(self.node, f"_saved_{name}")
        return self.output.new_ones(()) if given is None else given.detach().to(self.dtype)

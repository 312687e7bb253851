"""A loss function as the engine needs it: the root of its Hessian at the model output, and its gradient in that root.

For sample n with model output z_n, the Hessian of the loss with respect to z_n is `H_n = S_n S_nᵀ`. The exact root S_n
has a column for each output. A Monte-Carlo root has a column for each target that is drawn from the likelihood of the
loss: the gradient of the loss at this target. The expectation of its `S_n S_nᵀ` is H_n (Dangel et al. 2022, section 2;
Kunstner et al. 2019 for the equality of Fisher and GGN). The gradient of each of these losses lies in the span of the
exact root, `∇_n = S_n c_n`. So gradients along directions follow from c without a division.

| loss | H_n | column v of S | c | a sampled column |
| --- | --- | --- | --- | --- |
| squared error, w (z - t)² | 2 w I | √(2 w) e_v | √(2 w) (z - t) | √(2 w) ξ, ξ standard normal |
| cross-entropy, -Σ_v q_v log p_v | W (diag(p) - p pᵀ) | √W τ_v (e_v - p) | √W τ - q / (√W τ) | √W (p - e_y), y ~ p |
| binary cross-entropy | diag(w p (1 - p)) | √(w p (1 - p)) e_v | ∇ / √(w p (1 - p)) | √w (p - y), y ~ p |

Here w is the weight of an element in the loss, with class weights, reduction and constant factors; W is the sum of q
over the classes, p are the probabilities of the model, and τ = √p. Probabilities are computed from their logarithms.
Where a mistake is so confident that c would overflow, τ is replaced by the value at which c has its largest value: so
`S c` is the gradient for any logits, and H changes by less than its rounding errors.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor
from torch.autograd.graph import GradientEdge

from ddn_core.engine.sample_axis import SampleAxis

COARSE = 16
"""Step between the exponents of units, so that a number from 2e-5 to 6e4 has a square root of the unit 1."""


def unit_of_root(size: float) -> float:
    """Return a power of two near the square root of a number; 1 for numbers of ordinary size, zero, NaN and infinity.

    Squares and products of the numbers of an extreme loss leave the range of float32, unless they are divided by it.
    """
    if not size or not math.isfinite(size):
        return 1.0
    return 2.0 ** (COARSE * round(math.log2(abs(size)) / (2 * COARSE)))


def magnitude_of(size: float) -> float:
    """Return a power of two near a number, from 2⁻⁹⁶ to 2⁹⁶: float32 represents quotients by it, and its inverse."""
    return min(max(unit_of_root(size) ** 2, 2.0**-96), 2.0**96)


class LossTerm(ABC):
    """A loss function in the graph of a loss, with the weight of each of its elements.

    Attributes:
        kinds: Names of the graph nodes that are this loss function, without the suffix `Backward0`.
        inputs: Numbers of the node's inputs that may be the model output.
        node: The graph node.
        number: Number of the input that is the model output.
        output: Model output, or the function of it that root and gradient need.
        weight: Derivative of the loss with respect to the output of the node.
        dtype: Dtype in which root and coefficients are computed, at least float32.
        unit: Power of two near the square root of the loss or of its largest weight, in which coefficients have
            ordinary sizes; 1 until these numbers have been read.
    """

    kinds: ClassVar[tuple[str, ...]]
    inputs: ClassVar[tuple[int, ...]] = (0,)

    def __init__(self, node: Any, weight: Tensor, number: int = 0) -> None:
        """Read what the node has saved.

        Args:
            node: The graph node of the loss function.
            weight: Derivative of the loss with respect to the output of the node.
            number: Number of the input that is the model output, one of `inputs`.
        """
        self.node, self.number = node, number
        self.output: Tensor = self.read_output()
        dtype = self.output.dtype
        self.dtype = torch.float32 if dtype.itemsize < 4 else dtype
        self.output = self.output.to(self.dtype)
        self.weight = weight.to(self.dtype)
        self.unit = 1.0

    @property
    def reduction(self) -> int:
        """Reduction of the node: 0 for none, 1 for the mean, 2 for the sum."""
        return int(getattr(self.node, "_saved_reduction", 0))

    @abstractmethod
    def read_output(self) -> Tensor:
        """Return the model output that the node has saved, or the function of it that root and gradient need."""

    @property
    def largest_coefficient(self) -> float:
        """Largest coefficient of a gradient in a root: over the unit, sums of its square do not overflow."""
        return self.unit * (1e17 if self.dtype == torch.float32 else 1e145)

    @property
    @abstractmethod
    def weights(self) -> Tensor:
        """Weights of the elements, of any shape; the GGN exists if none is negative."""

    @abstractmethod
    def exact(self, samples: SampleAxis) -> Tensor:
        """Return the exact root, `[C, *output]`."""

    @abstractmethod
    def sampled(self, count: int, generator: Generator | None) -> Tensor:
        """Return a Monte-Carlo root, `[count, *output]`; its outer products have the mean H / count."""

    @abstractmethod
    def coefficients(self, samples: SampleAxis) -> Tensor:
        """Return the coefficients of the gradient in the exact root, `[N, C]`."""

    @property
    @abstractmethod
    def slope(self) -> Tensor:
        """Gradient of the loss with respect to the model output in closed form, broadcasts to `[*output]`."""

    @property
    def whole_slope(self) -> Tensor:
        """The slope for each element of the model output, `[*output]`."""
        slope = self.slope
        return slope if slope.shape == self.output.shape else slope.expand_as(self.output)

    @abstractmethod
    def hold(self) -> None:
        """Keep what `slope_rounding` reads of the node, since the backward pass frees it."""

    @property
    @abstractmethod
    def slope_terms(self) -> Tensor:
        """Sizes of the numbers whose difference `slope` is, broadcasts to `[*output]`: rounding is relative to them."""

    @property
    def slope_rounding(self) -> Tensor:
        """Relative rounding error of the gradient, a scalar: large for outputs that fit the targets almost exactly."""
        sizes = (values.expand_as(self.output) for values in (self.slope_terms, self.slope))
        terms, slope = (torch.linalg.vector_norm(values, dtype=torch.float64) for values in sizes)
        rounding: Tensor = torch.finfo(self.output.dtype).eps * terms / slope
        return rounding

    @abstractmethod
    def curvature_along(self, vector: Tensor) -> Tensor:
        """Return numbers `[*output]` that are not negative and whose sum over each sample's outputs is `vᵀ H v`.

        Args:
            vector: The vectors v of all samples, `[*output]`.
        """

    def element_weight(self) -> Tensor:
        """Return the weight of an element before the reduction of the node: a scalar, or `[*output]`."""
        return self.weight / self.output.numel() if self.reduction == 1 else self.weight

    @cached_property
    def gradient(self) -> Tensor:
        """Gradient of the loss with respect to the model output, from the node itself."""
        edge = self.node.next_functions[self.number]
        gradients = torch.autograd.grad(
            [GradientEdge(self.node, 0)], [GradientEdge(*edge)], [self.weight], retain_graph=True
        )
        return gradients[0]

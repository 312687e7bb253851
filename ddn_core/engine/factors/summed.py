"""Columns of a parameter that is used in several places: the sum of the columns of each place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from itertools import combinations

import torch
from torch import Size, Tensor

from ddn_core.engine.factors.columns import Columns, ParameterVectors
from ddn_core.engine.factors.layout import ParameterLayout


class SummedColumns(Columns):
    """The sum of columns of the same parameter, with the same samples and columns per sample, which is never formed."""

    def __init__(self, summands: Sequence[Columns], shape: Size) -> None:
        """Keep the summands.

        Args:
            summands: Columns of each place, for the same one parameter; their layouts may differ.
            shape: Shape of the parameter.
        """
        self._summands = list(summands)
        self._shape = shape
        self.samples, self.per_sample, self.size = summands[0].samples, summands[0].per_sample, shape.numel()
        self.layout = ParameterLayout(shape)

    @property
    def held_elements(self) -> int:
        """Number of elements that are held, without the input of the operation."""
        return sum(summand.held_elements for summand in self._summands)

    @property
    def fills_gram(self) -> bool:
        """True if each summand adds the whole matrix; the products of two summands are whole."""
        return all(summand.fills_gram for summand in self._summands)

    def accumulate(self, gram: Tensor, vector: ParameterVectors | None, products: Tensor | None) -> None:
        """Add the upper blocks of the Gram matrix, and the products with a vector."""
        for summand in self._summands:
            summand.accumulate(gram, vector, products)
        for summand, other in combinations(self._summands, 2):
            crossed = summand.inner(other)
            gram += crossed
            gram += crossed.T

    def inner(self, other: Columns) -> Tensor:
        """Return the inner products, `[count, other.count]`."""
        return _total(summand.inner(other) for summand in self._summands)

    def combine(self, weights: Tensor) -> ParameterVectors:
        """Return linear combinations of the columns."""
        return (_total(summand.combine(weights)[0] for summand in self._summands),)

    def project(self, vectors: ParameterVectors) -> Tensor:
        """Return the inner products with vectors, `[count, K]`."""
        return _total(summand.project(vectors) for summand in self._summands)

    def formed(self) -> Tensor:
        """Return the columns, `[count, size]`."""
        return _total(self.layout.rearrange(summand.formed(), summand.layout) for summand in self._summands)

    def select(self, samples: Sequence[int]) -> SummedColumns:
        """Return the columns of some samples."""
        return SummedColumns([summand.select(samples) for summand in self._summands], self._shape)

    def scaled(self, factor: float) -> SummedColumns:
        """Return the columns times a factor."""
        return SummedColumns([summand.scaled(factor) for summand in self._summands], self._shape)

    def contracted(self, coefficients: Tensor) -> SummedColumns:
        """Return one column for each sample."""
        return SummedColumns([summand.contracted(coefficients) for summand in self._summands], self._shape)


def _total(terms: Iterable[Tensor]) -> Tensor:
    """Return the sum of tensors, which are not held together."""
    return reduce(torch.add, terms)

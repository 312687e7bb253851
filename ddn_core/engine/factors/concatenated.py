"""Columns of several batches as those of one batch, for gradient accumulation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ddn_core.engine.factors.columns import Columns, ParameterVectors


class ConcatenatedColumns(Columns):
    """The columns of several batches, one batch after the other, with the same number of columns per sample."""

    def __init__(self, batches: Sequence[Columns]) -> None:
        """Keep the columns of the batches.

        Args:
            batches: Columns of each batch, for the same parameters.
        """
        self._batches = list(batches)
        self.samples = sum(batch.samples for batch in batches)
        self.per_sample, self.size, self.layout = batches[0].per_sample, batches[0].size, batches[0].layout

    @property
    def held_elements(self) -> int:
        """Number of elements that are held, without the input of the operation."""
        return sum(batch.held_elements for batch in self._batches)

    def accumulate(self, gram: Tensor, vector: ParameterVectors | None, products: Tensor | None) -> None:
        """Add the upper blocks of the Gram matrix, and the products with a vector."""
        for index, (batch, rows) in enumerate(self._rows()):
            own, own_products = gram.new_zeros(batch.count, batch.count), gram.new_zeros(batch.count)
            batch.accumulate(own, vector, own_products)
            gram[rows, rows] += own
            if products is not None:
                products[rows] += own_products
            for other, columns in list(self._rows())[index + 1 :]:
                gram[rows, columns] += batch.inner(other)

    def inner(self, other: Columns) -> Tensor:
        """Return the inner products, `[count, other.count]`."""
        return torch.cat([batch.inner(other) for batch in self._batches])

    def combine(self, weights: Tensor) -> ParameterVectors:
        """Return linear combinations of the columns."""
        combined = [batch.combine(weights[rows]) for batch, rows in self._rows()]
        return tuple(torch.stack(same).sum(0) for same in zip(*combined, strict=True))

    def project(self, vectors: ParameterVectors) -> Tensor:
        """Return the inner products with vectors, `[count, K]`."""
        return torch.cat([batch.project(vectors) for batch in self._batches])

    def formed(self) -> Tensor:
        """Return the columns, `[count, size]`."""
        return torch.cat([self.layout.rearrange(batch.formed(), batch.layout) for batch in self._batches])

    def select(self, samples: Sequence[int]) -> ConcatenatedColumns:
        """Return the columns of the given samples, numbered through the batches; the numbers must ascend."""
        batches, start = [], 0
        for batch in self._batches:
            if chosen := [sample - start for sample in samples if start <= sample < start + batch.samples]:
                batches.append(batch.select(chosen))
            start += batch.samples
        return ConcatenatedColumns(batches)

    def scaled(self, factor: float) -> ConcatenatedColumns:
        """Return the columns times a factor."""
        return ConcatenatedColumns([batch.scaled(factor) for batch in self._batches])

    def contracted(self, coefficients: Tensor) -> ConcatenatedColumns:
        """Return one column for each sample."""
        sizes = [batch.samples for batch in self._batches]
        shares = torch.split(coefficients, sizes)
        return ConcatenatedColumns([batch.contracted(own) for batch, own in zip(self._batches, shares, strict=True)])

    def _rows(self) -> Iterator[tuple[Columns, slice]]:
        start = 0
        for batch in self._batches:
            yield batch, slice(start, start + batch.count)
            start += batch.count

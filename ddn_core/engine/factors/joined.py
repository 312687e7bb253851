"""Columns of several batches, as if all had been one: what gradient accumulation needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ddn_core.engine.factors.columns import Columns, Parts


class JoinedColumns(Columns):
    """The columns of one batch after the other; the batches have as many columns per sample."""

    def __init__(self, parts: Sequence[Columns]) -> None:
        """Keep the parts.

        Args:
            parts: Columns for the same parameters, of one batch each.
        """
        self._parts = list(parts)
        self.samples = sum(part.samples for part in parts)
        self.per_sample, self.size, self.layout = parts[0].per_sample, parts[0].size, parts[0].layout

    def accumulate(self, gram: Tensor, vector: Parts | None, products: Tensor | None) -> None:
        """Add the upper blocks of the Gram matrix, and the products with a vector."""
        for index, (part, rows) in enumerate(self._rows()):
            own, own_products = gram.new_zeros(part.count, part.count), gram.new_zeros(part.count)
            part.accumulate(own, vector, own_products)
            gram[rows, rows] += own
            if products is not None:
                products[rows] += own_products
            for other, columns in list(self._rows())[index + 1 :]:
                gram[rows, columns] += part.inner(other)

    def inner(self, other: Columns) -> Tensor:
        """Return the inner products, `[count, other.count]`."""
        return torch.cat([part.inner(other) for part in self._parts])

    def combine(self, weights: Tensor) -> Parts:
        """Return linear combinations of the columns."""
        combined = [part.combine(weights[rows]) for part, rows in self._rows()]
        return tuple(torch.stack(same).sum(0) for same in zip(*combined, strict=True))

    def project(self, vectors: Parts) -> Tensor:
        """Return the inner products with vectors, `[count, K]`."""
        return torch.cat([part.project(vectors) for part in self._parts])

    def formed(self) -> Tensor:
        """Return the columns, `[count, size]`."""
        return torch.cat([part.formed() for part in self._parts])

    def select(self, samples: Sequence[int]) -> JoinedColumns:
        """Return the columns of some samples, counted through the batches; they are ascending."""
        parts, start = [], 0
        for part in self._parts:
            if chosen := [sample - start for sample in samples if start <= sample < start + part.samples]:
                parts.append(part.select(chosen))
            start += part.samples
        return JoinedColumns(parts)

    def contracted(self, coefficients: Tensor) -> JoinedColumns:
        """Return one column for each sample."""
        sizes = [part.samples for part in self._parts]
        shares = torch.split(coefficients, sizes)
        return JoinedColumns([part.contracted(own) for part, own in zip(self._parts, shares, strict=True)])

    def bytes(self) -> int:
        """Return how many bytes are held."""
        return sum(part.bytes() for part in self._parts)

    def _rows(self) -> Iterator[tuple[Columns, slice]]:
        start = 0
        for part in self._parts:
            yield part, slice(start, start + part.count)
            start += part.count

"""Formed columns: for operations with few parameters, and for parameters that several operations share."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ddn_core.engine.factors.columns import SMALL_GRAM, Columns, ParameterVectors, add_upper_products
from ddn_core.engine.factors.layout import Layout


class FormedColumns(Columns):
    """Columns that are held as one tensor."""

    def __init__(self, values: Tensor, layout: Layout) -> None:
        """Wrap the columns.

        Args:
            values: Tensor `[B, A, size]`, contiguous.
            layout: Mapping between the entries and the parameters.
        """
        self.layout = layout
        self.samples, self.per_sample, self.size = values.shape
        self._values = values.reshape(-1, self.size)

    @property
    def held_elements(self) -> int:
        """Number of elements that are held, without the input of the operation."""
        return self._values.numel()

    @property
    def fills_gram(self) -> bool:
        """True for a small number of columns."""
        return self.count <= SMALL_GRAM

    def accumulate(self, gram: Tensor, vector: ParameterVectors | None, products: Tensor | None) -> None:
        """Add the upper blocks of the Gram matrix, and the products with a vector."""
        add_upper_products(gram, self._values)
        if vector is not None and products is not None:
            products.addmv_(self._values, self.layout.join(vector)[0])

    def inner(self, other: Columns) -> Tensor:
        """Return the inner products, `[count, other.count]`."""
        return other.project(self.layout.split(self._values)).T

    def combine(self, weights: Tensor) -> ParameterVectors:
        """Return linear combinations of the columns."""
        return self.layout.split(weights.T @ self._values)

    def project(self, vectors: ParameterVectors) -> Tensor:
        """Return the inner products with vectors, `[count, K]`."""
        return self._values @ self.layout.join(vectors).T

    def formed(self) -> Tensor:
        """Return the columns, `[count, size]`."""
        return self._values

    def select(self, samples: Sequence[int]) -> FormedColumns:
        """Return the columns of some samples."""
        values = self._values.reshape(self.samples, self.per_sample, -1)
        return FormedColumns(values[list(samples)], self.layout)

    def scaled(self, factor: float) -> FormedColumns:
        """Return the columns times a factor."""
        return FormedColumns((factor * self._values).reshape(self.samples, self.per_sample, -1), self.layout)

    def contracted(self, coefficients: Tensor) -> FormedColumns:
        """Return one column for each sample."""
        values = self._values.reshape(self.samples, self.per_sample, -1)
        return FormedColumns(coefficients[:, None] @ values, self.layout)

"""What every structured form of a factor can do: inner products and linear combinations of its columns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor


class Columns(ABC):
    """`A · B` vectors in the space of one parameter, without the vectors being formed.

    A is the number of columns per sample (C model outputs, M Monte-Carlo samples, or 1 for a gradient), B the
    number of samples. Column `(a, b)` has the flat index `a · B + b`.
    """

    shape: torch.Size
    """Shape of the parameter."""

    count: int
    """Number of columns, `A · B`."""

    @abstractmethod
    def inner(self, other: Columns) -> Tensor:
        """Return the inner products of all columns with all columns of `other`.

        Args:
            other: Columns for the same parameter.

        Returns:
            Tensor `[count, other.count]`.
        """

    @abstractmethod
    def combine(self, weights: Tensor) -> Tensor:
        """Return linear combinations of the columns.

        Args:
            weights: Tensor `[count, K]`.

        Returns:
            Tensor `[K, *shape]`.
        """

    @abstractmethod
    def norm_bound(self) -> Tensor:
        """Return an upper bound of the sum of the columns' Euclidean norms, a scalar."""

    @abstractmethod
    def dense(self) -> Tensor:
        """Return the columns themselves, `[count, *shape]`: large, for what has no structured form."""


@dataclass(frozen=True)
class Factor:
    """The rows of V that belong to one parameter, and the per-sample gradients for the same parameter.

    Attributes:
        root: Columns of V, `R = C · N` (or `M · N`) of them; G = Σ root rootᵀ over the group's parameters.
        gradient: Per-sample gradients, N of them, not divided by N.
    """

    root: Columns
    gradient: Columns

    def __add__(self, other: Factor) -> Factor:
        """Return the factor of a parameter that two layers share: derivatives add up, so no structure is left."""
        from ddn_core.engine.factors.dense import DenseColumns

        return Factor(
            root=DenseColumns(self.root.dense() + other.root.dense()),
            gradient=DenseColumns(self.gradient.dense() + other.gradient.dense()),
        )

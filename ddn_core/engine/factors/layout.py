"""Layouts: the mapping between the entries of a column and the parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Size, Tensor

from ddn_core.engine.factors.family import WeightFamily


class Layout(ABC):
    """Mapping between the entries of a column and parameters; layouts that compare equal order the entries equally."""

    @abstractmethod
    def split(self, vectors: Tensor) -> tuple[Tensor, ...]:
        """Return columns `[K, size]` as vectors `[K, *parameter.shape]` for each parameter."""

    @abstractmethod
    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """Return vectors `[K, *parameter.shape]` for each parameter as columns `[K, size]`: the inverse of `split`."""

    def rearrange(self, vectors: Tensor, source: Layout) -> Tensor:
        """Return columns `[K, size]` of another layout of the same parameters as columns of this layout."""
        return vectors if source == self else self.join(source.split(vectors))


@dataclass(frozen=True)
class WeightLayout(Layout):
    """Layout of weight and bias, or one of them, in the order `[g, o, f]`; the bias is the last feature.

    Attributes:
        family: Family of the operation.
        names: Roles of the parameters in the operation: `("weight", "bias")`, or one of them.
    """

    family: WeightFamily
    names: tuple[str, ...]

    def split(self, vectors: Tensor) -> tuple[Tensor, ...]:
        """Return columns as vectors for weight and bias; those for the bias are `[K, g · o]`."""
        groups, outputs, _ = self.family.matrix_shape
        matrices = vectors.reshape(len(vectors), groups, outputs, -1)
        features = matrices.shape[-1] - ("bias" in self.names)
        parts = {"bias": matrices[..., features:].reshape(len(vectors), -1)}
        if "weight" in self.names:
            parts["weight"] = self.family.to_weights(matrices[..., :features])
        return tuple(parts[name] for name in self.names)

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """Return vectors for weight and bias as columns."""
        given = dict(zip(self.names, parts, strict=True))
        count = len(parts[0])
        groups, outputs, _ = self.family.matrix_shape
        matrices = [self.family.to_matrices(given["weight"])] if "weight" in given else []
        if "bias" in given:
            matrices.append(given["bias"].reshape(count, groups, outputs, 1))
        return torch.cat(matrices, dim=-1).reshape(count, -1)


@dataclass(frozen=True)
class ParameterLayout(Layout):
    """Layout of one parameter, with its entries in their own order."""

    shape: Size

    def split(self, vectors: Tensor) -> tuple[Tensor, ...]:
        """Return columns as vectors for the parameter."""
        return (vectors.reshape(len(vectors), *self.shape),)

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """Return vectors for the parameter as columns."""
        return parts[0].reshape(len(parts[0]), -1)

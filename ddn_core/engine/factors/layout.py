"""Where in the parameters the entries of a column belong."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Size, Tensor
from torch.nn import Module

from ddn_core.engine.factors.family import LayerFamily


class Layout(ABC):
    """How the entries of a column are shared out among parameters."""

    @abstractmethod
    def split(self, vectors: Tensor) -> tuple[Tensor, ...]:
        """Return `[K, *parameter.shape]` for each parameter, from columns `[K, size]`."""

    @abstractmethod
    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """Return columns `[K, size]`, from `[K, *parameter.shape]` for each parameter."""


@dataclass(frozen=True, eq=False)
class LayerLayout(Layout):
    """Weight and bias of a layer, or one of them, as a product of outputs and features.

    Attributes:
        layer: Layer.
        family: What is known of its kind.
        names: `("weight", "bias")`, or one of them.
        outputs: Number of outputs of a group.
    """

    layer: Module
    family: LayerFamily
    names: tuple[str, ...]
    outputs: int

    def split(self, vectors: Tensor) -> tuple[Tensor, ...]:
        """Return weight and bias."""
        matrices = vectors.reshape(len(vectors), self.family.groups(self.layer), self.outputs, -1)
        features = matrices.shape[-1] - ("bias" in self.names)
        parts = {"bias": matrices[..., features:].reshape(len(vectors), -1)}
        if "weight" in self.names:
            parts["weight"] = self.family.to_weights(self.layer, matrices[..., :features])
        return tuple(parts[name] for name in self.names)

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """Return the product of outputs and features."""
        given = dict(zip(self.names, parts, strict=True))
        count, groups = len(parts[0]), self.family.groups(self.layer)
        matrices = [self.family.to_matrices(self.layer, given["weight"])] if "weight" in given else []
        if "bias" in given:
            matrices.append(given["bias"].reshape(count, groups, self.outputs, 1))
        return torch.cat(matrices, dim=-1).reshape(count, -1)


@dataclass(frozen=True, eq=False)
class ParameterLayout(Layout):
    """One parameter, as it is."""

    shape: Size

    def split(self, vectors: Tensor) -> tuple[Tensor, ...]:
        """Return the parameter."""
        return (vectors.reshape(len(vectors), *self.shape),)

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """Return the parameter's entries."""
        return parts[0].flatten(1)

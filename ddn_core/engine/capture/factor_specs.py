"""Specifications of the factors: the parameters of one layer that are in the same group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ddn_core.engine.capture.families import family_of
from ddn_core.engine.capture.layers import check_parameter
from ddn_core.engine.capture.tape import LayerCall
from ddn_core.engine.factors import FactorInput, ProductColumns, WeightFamily


@dataclass(frozen=True, eq=False)
class FactorSpec:
    """Parameters of one layer that make up one factor.

    Attributes:
        call: Call of the layer.
        names: Names of the parameters: `("weight", "bias")`, or one of them.
        must_form: True if the columns must be formed, even if they need more memory.
    """

    call: LayerCall
    names: tuple[str, ...]
    must_form: bool = False

    @cached_property
    def family(self) -> WeightFamily:
        """Family of the layer."""
        return family_of(self.call.layer)

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """The parameters themselves."""
        return tuple(getattr(self.call.layer, name) for name in self.names)

    @cached_property
    def shape(self) -> tuple[int, int, int, int]:
        """Numbers of groups, outputs, features and positions."""
        output = self.call.output
        positions = self.family.root(output[:1, None]).shape[-1]
        groups, outputs, features = self.family.matrix_shape
        if "weight" not in self.names:
            features, positions = 0, 1
        return groups, outputs, features + ("bias" in self.names), positions

    def root(self, backpropagated: Tensor) -> Tensor:
        """Return the columns at the layer output, `[b, a, *output]`, as the root `[b, a, g, o, L]`.

        Without the weight, the positions are summed, L = 1.
        """
        root = self.family.root(backpropagated)
        return root if "weight" in self.names else root.sum(-1, keepdim=True)

    def factor_input(self, dtype: torch.dtype) -> FactorInput:
        """Return the layer's input, in the given dtype if it is floating-point."""
        values = self.call.inputs[0]
        return FactorInput(self.family, values.to(dtype) if values.is_floating_point() else values, self.names)

    def per_sample_gradients(self, dtype: torch.dtype) -> ProductColumns:
        """Return the per-sample gradients, with the normalization of the loss."""
        assert self.call.output_gradient is not None  # the layer has parameters
        root = self.root(self.call.output_gradient.to(dtype)[:, None])
        return ProductColumns(root, self.factor_input(dtype))

    @property
    def is_kept_formed(self) -> bool:
        """True if the columns are stored formed, which they are if they need no more memory than the root."""
        _, _, features, positions = self.shape
        return self.must_form or features <= positions


def factor_specs(calls: Sequence[LayerCall], groups: Mapping[int, int]) -> list[FactorSpec]:
    """Return the specifications of all factors.

    A parameter that several layers share has its own specification in each of these layers.

    Args:
        calls: Calls of the layers.
        groups: Number of the group of each wanted parameter, by `id` of the parameter.

    Raises:
        CurvatureError: A wanted parameter is neither weight nor bias of a supported layer.
    """
    holders = Counter(id(getattr(call.layer, name)) for call in calls for name in call.names_among(groups))
    specs = []
    for call in calls:
        by_group: dict[int, list[str]] = {}
        for name in call.names_among(groups):
            check_parameter(call.layer, name)
            key = id(getattr(call.layer, name))
            if holders[key] > 1:
                specs.append(FactorSpec(call, (name,), must_form=True))
            else:
                by_group.setdefault(groups[key], []).append(name)
        specs += [FactorSpec(call, tuple(sorted(names, reverse=True))) for names in by_group.values()]
    return specs

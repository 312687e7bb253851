"""What factors are made of: the parameters of one layer that are in one group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ddn_core.engine.capture.layers import check_parameter
from ddn_core.engine.capture.tape import LayerCall
from ddn_core.engine.factors import FAMILIES, LayerFamily, LayerInput, ProductColumns


@dataclass(frozen=True, eq=False)
class FactorSpec:
    """Parameters of one layer that make up one factor.

    Attributes:
        call: Call of the layer.
        names: `("weight", "bias")`, or one of them.
        must_form: Whether the columns have to be formed, whatever they need.
    """

    call: LayerCall
    names: tuple[str, ...]
    must_form: bool = False

    @property
    def family(self) -> LayerFamily:
        """What is known of the layer's kind."""
        return FAMILIES[type(self.call.layer)]

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """The parameters."""
        return tuple(getattr(self.call.layer, name) for name in self.names)

    @cached_property
    def shape(self) -> tuple[int, int, int, int]:
        """Numbers of groups, outputs, features and positions."""
        output = self.call.output
        _, _, groups, outputs, positions = self.family.root(self.call.layer, output[:1, None]).shape
        weight: Any = self.call.layer.weight
        features = weight.numel() // (groups * outputs) if "weight" in self.names else 0
        return groups, outputs, features + ("bias" in self.names), positions if "weight" in self.names else 1

    def root(self, backpropagated: Tensor) -> Tensor:
        """Return what is backpropagated to the output, `[b, a, *output]`, as `[b, a, g, o, L]`."""
        root = self.family.root(self.call.layer, backpropagated)
        return root if "weight" in self.names else root.sum(-1, keepdim=True)

    def layer_input(self, dtype: torch.dtype) -> LayerInput:
        """Return the layer's input; its numbers in a dtype, its tokens as they are."""
        values = self.call.inputs[0]
        return LayerInput(
            self.call.layer,
            self.family,
            values.to(dtype) if values.is_floating_point() else values,
            self.names,
        )

    def per_sample_gradients(self, dtype: torch.dtype) -> ProductColumns:
        """Return the per-sample gradients, divided as the loss divides them."""
        assert self.call.output_gradient is not None  # the layer has parameters
        root = self.root(self.call.output_gradient.to(dtype)[:, None])
        return ProductColumns(root, self.layer_input(dtype))

    @property
    def is_kept_formed(self) -> bool:
        """Return whether the columns are kept formed: where that takes no more memory than the root does."""
        _, _, features, positions = self.shape
        return self.must_form or features <= positions


def factor_specs(calls: Sequence[LayerCall], groups: Mapping[int, int]) -> list[FactorSpec]:
    """Return what factors are made of; a parameter that layers share is on its own, once for each of them.

    Args:
        calls: Calls of the layers.
        groups: By `id` of each wanted parameter, the number of its group.

    Raises:
        CurvatureError: A wanted parameter is none that its layer's kind has.
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

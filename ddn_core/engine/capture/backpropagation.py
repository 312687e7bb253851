"""From the calls of the layers to factors: the columns of the loss Hessian's root, propagated back in chunks.

A chunk is some columns of some samples. It goes from the model output down to the lowest wanted parameter before the
next one begins, so that what is held beside the factors is as large as a chunk, and stays in the processor's cache.
Each factor takes the form that needs less memory: the columns formed, or root and input of the layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from ddn_core.engine.capture.jacobians import transposed_jacobian
from ddn_core.engine.capture.parts import Part
from ddn_core.engine.capture.plan import CapturePlan
from ddn_core.engine.capture.tape import Key, LayerCall, leads_to_parameters
from ddn_core.engine.factors import (
    Columns,
    FormedColumns,
    ProductColumns,
    form,
)
from ddn_core.engine.factors.layout import LayerLayout

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class _Builder:
    """Makes the columns of one part, chunk by chunk."""

    def __init__(self, part: Part, root: Tensor, whole: bool, slice_elements: int) -> None:
        groups, outputs, features, positions = part.shape
        self._part, self._slice_elements = part, slice_elements
        self._input = part.input(root.dtype)
        self._takes_form = part.takes_form()
        last = (outputs, features) if self._takes_form else (outputs, positions)
        self._store = None if whole and not self._takes_form else root.new_empty(*root.shape[:2], groups, *last)

    def add(self, samples: slice, columns: slice, backpropagated: Tensor) -> None:
        """Take in a chunk, `[b, a, *output]`."""
        values = self._part.positions(backpropagated)
        if self._store is None:
            if isinstance(self._part.call.layer, BATCH_NORMS):  # goes on to overwrite what is propagated through it
                self._store = values.clone(memory_format=torch.contiguous_format)
            else:
                self._store = values.contiguous()
        elif self._takes_form:
            self._form(self._store[samples, columns], samples, values)
        else:
            self._store[samples, columns] = values

    def finish(self) -> Columns:
        """Return the columns."""
        assert self._store is not None
        if self._takes_form:
            layout = LayerLayout(self._part.call.layer, self._part.family, self._part.names, self._store.shape[3])
            return FormedColumns(self._store.flatten(2), layout)
        return ProductColumns(self._store, self._input, self._slice_elements)

    def _form(self, place: Tensor, samples: slice, values: Tensor) -> None:
        if self._input.weight:
            formed = form(values, self._input.features(samples))
            place[..., : formed.shape[-1]] = formed
        if self._input.bias:
            place[..., -1] = values.sum(-1)


def propagate(
    calls: Sequence[LayerCall], parts: Sequence[Part], root: Tensor, output_key: Key, plan: CapturePlan
) -> list[Columns]:
    """Return the columns of each part.

    Args:
        calls: Calls of the layers, in the order of the backward pass.
        parts: What columns are wanted of.
        root: Root of the loss Hessian at the model output, `[B, A, *output]`.
        output_key: Key of the model output.
        plan: How many columns are propagated, and formed, at a time.
    """
    by_call: dict[int, list[_Builder]] = {}
    samples, per_sample = root.shape[:2]
    at_a_time = max(1, plan.chunk_elements // max(1, plan.widest))
    width, columns = max(1, at_a_time // per_sample), min(per_sample, at_a_time)
    whole = width >= samples and columns >= per_sample
    builders = []
    for part in parts:
        builders.append(_Builder(part, root, whole, plan.slice_elements))
        by_call.setdefault(id(part.call), []).append(builders[-1])
    wanted = {id(parameter) for part in parts for parameter in part.parameters}
    leading = leads_to_parameters(calls, wanted)
    path = [call for call in calls if call.output_key in leading]
    for start in range(0, samples, width):
        chosen = slice(start, min(start + width, samples))
        jacobians = {
            id(call): transposed_jacobian(call, chosen, root.dtype)
            for call in path
            if any(key in leading for key in call.input_keys)
        }
        for first in range(0, per_sample, columns):
            some = slice(first, min(first + columns, per_sample))
            cotangents = {output_key: root[chosen, some].clone()}
            for call in path:
                backpropagated = cotangents.pop(call.output_key)
                for builder in by_call.get(id(call), ()):
                    builder.add(chosen, some, backpropagated)
                if id(call) in jacobians:
                    propagated = jacobians[id(call)](backpropagated)
                    del backpropagated
                    _collect(cotangents, zip(call.input_keys, propagated, strict=True), leading)
    return [builder.finish() for builder in builders]


def _collect(cotangents: dict[Key, Tensor], propagated: Iterable[tuple[Key, Tensor]], leading: set[Key]) -> None:
    """Note what was propagated to the inputs of a layer; what reaches one tensor in several ways is added up."""
    for key, columns in propagated:
        if key in leading:
            cotangents[key] = cotangents[key] + columns if key in cotangents else columns

"""From the calls of the layers to factors: columns of the loss Hessian's root are propagated back in chunks.

A chunk has some columns of some samples. It is propagated from the model output to the lowest wanted parameter before
the next chunk begins. So the memory beyond that of the factors is that of one chunk, which fits into the processor's
cache. Each factor is stored in the form that needs less memory: formed columns, or root and layer input.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from ddn_core.engine.capture.factor_specs import FactorSpec
from ddn_core.engine.capture.jacobians import transposed_jacobian
from ddn_core.engine.capture.plan import CapturePlan
from ddn_core.engine.capture.tape import Key, LayerCall, keys_leading_to
from ddn_core.engine.factors import Columns, FormedColumns, ProductColumns, WeightLayout, form

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class _Builder:
    """Builder of the columns of one factor, chunk by chunk."""

    def __init__(self, spec: FactorSpec, root: Tensor, whole: bool, slice_elements: int) -> None:
        groups, outputs, features, positions = spec.shape
        self._spec, self._slice_elements = spec, slice_elements
        self._input = spec.factor_input(root.dtype)
        self._forms = spec.is_kept_formed
        last = (outputs, features) if self._forms else (outputs, positions)
        self._store = None if whole and not self._forms else root.new_empty(*root.shape[:2], groups, *last)

    def add(self, samples: slice, columns: slice, backpropagated: Tensor) -> None:
        """Add a chunk of columns at the layer output, `[b, a, *output]`."""
        values = self._spec.root(backpropagated)
        if self._store is None:
            if isinstance(self._spec.call.layer, BATCH_NORMS):  # its Jacobian overwrites the columns
                self._store = values.clone(memory_format=torch.contiguous_format)
            else:
                self._store = values.contiguous()
        elif self._forms:
            self._form(self._store[samples, columns], samples, values)
        else:
            self._store[samples, columns] = values

    def finish(self) -> Columns:
        """Return the columns, after all chunks were added."""
        assert self._store is not None
        if self._forms:
            return FormedColumns(self._store.flatten(2), WeightLayout(self._spec.family, self._spec.names))
        return ProductColumns(self._store, self._input, self._slice_elements)

    def _form(self, place: Tensor, samples: slice, values: Tensor) -> None:
        if self._input.has_weight:
            formed = form(values, self._input.features(samples))
            place[..., : formed.shape[-1]] = formed
        if self._input.has_bias:
            place[..., -1] = values.sum(-1)


def propagate(
    calls: Sequence[LayerCall], specs: Sequence[FactorSpec], root: Tensor, output_key: Key, plan: CapturePlan
) -> list[Columns]:
    """Propagate the root of the loss Hessian back, and return the columns of each factor.

    Args:
        calls: Calls of the layers, in the order of the backward pass.
        specs: The factors to make.
        root: Root of the loss Hessian at the model output, `[B, A, *output]`.
        output_key: Key of the model output.
        plan: Numbers of columns that are propagated, and formed, at a time.
    """
    by_call: dict[int, list[_Builder]] = {}
    samples, per_sample = root.shape[:2]
    at_a_time = max(1, plan.chunk_elements // max(1, plan.widest))
    width, columns = max(1, at_a_time // per_sample), min(per_sample, at_a_time)
    whole = width >= samples and columns >= per_sample
    builders = []
    for spec in specs:
        builders.append(_Builder(spec, root, whole, plan.slice_elements))
        by_call.setdefault(id(spec.call), []).append(builders[-1])
    wanted = {id(parameter) for spec in specs for parameter in spec.parameters}
    leading = keys_leading_to(calls, wanted)
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
    """Add the columns that were propagated to the inputs of a layer to those that reached these tensors before."""
    for key, columns in propagated:
        if key in leading:
            cotangents[key] = cotangents[key] + columns if key in cotangents else columns

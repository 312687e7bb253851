"""Sites: the nodes at which the samples of a batch meet something that they share, such as a weight.

At a site, the columns at the node's output have the samples apart, and one of its inputs is shared. A rule for the kind
of the node turns these columns into those of the shared input, either in the structured form of `factors/`, or formed,
`[N, K, *shape]`. A node without a rule is called itself, with the columns masked to one sample at a time: this is exact
for any node, and costs N times as much.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import Node

from ddn_core.engine.capture.columns import carry, quiet_fallbacks
from ddn_core.engine.capture.graph import ModelGraph
from ddn_core.engine.factors import ConvolutionFamily, EmbeddingFamily, LinearFamily, TransposedConvolutionFamily
from ddn_core.engine.factors.family import WeightFamily
from ddn_core.engine.nodes import Edge, dtype_of, shape_of, signed
from ddn_core.engine.sample_axis import SampleAxis
from ddn_core.errors import CurvatureError


@dataclass(frozen=True, eq=False)
class Site:
    """A node at which the samples, which are apart at its outputs, meet something that they share.

    Attributes:
        node: The node.
        kind: Kind of the node.
        outputs: Edges of the node's outputs; `None` for an output without columns.
        layouts: Axis of the samples at each output; `None` for an output without columns.
        shared: Shared inputs: number of the input, and its edge.
    """

    node: Node
    kind: str
    outputs: tuple[Edge | None, ...]
    layouts: tuple[SampleAxis | None, ...]
    shared: tuple[tuple[int, Edge], ...]


@dataclass(frozen=True, eq=False)
class StructuredInput:
    """The structured form of the columns of a shared input.

    Attributes:
        family: Family of the operation.
        values: What the weight is multiplied with, `[N, ...]`.
        root: Turns columns at the node's output, `[K, *output]`, into `[N, K, *output of one sample]`.
    """

    family: WeightFamily
    values: Tensor
    root: Callable[[Tensor], Tensor]


def structured(node: Any, kind: str, number: int, layout: SampleAxis) -> StructuredInput | None:
    """Return the structured form of the columns of a shared input, `None` if there is no rule.

    Args:
        node: Node of the site.
        kind: Kind of the node.
        number: Number of the shared input.
        layout: Axis of the samples at the node's output.
    """
    rule = _STRUCTURED.get((kind, number))
    return None if rule is None else rule(node, layout)


def formed(node: Any, kind: str, number: int, layout: SampleAxis, columns: Tensor) -> Tensor | None:
    """Return the columns of a shared input, `[N, K, *shape]`, `None` if there is no rule.

    Args:
        node: Node of the site.
        kind: Kind of the node.
        number: Number of the shared input.
        layout: Axis of the samples at the node's output.
        columns: Columns at the node's output, `[K, *output]`.
    """
    rule = _FORMED.get(kind)
    return None if rule is None else rule(node, number, layout, columns)


def masked(
    graph: ModelGraph,
    node: Node,
    numbers: Sequence[int],
    layouts: Sequence[SampleAxis | None],
    given: Sequence[Tensor | None],
) -> dict[int, Tensor]:
    """Return the columns `[N, K, *shape]` of inputs of any node: it is called with the columns of one sample at a time.

    Args:
        graph: The graph.
        node: Node of the site.
        numbers: Numbers of the inputs.
        layouts: Axis of the samples at each output of the node; `None` for an output without columns.
        given: Columns at each output of the node, `[K, *output]`; `None` for an output without columns.
    """
    known = next(columns for columns in given if columns is not None)
    layout = next(layout for layout in layouts if layout is not None)
    count = layout.samples * len(known)
    cotangents = [
        known.new_zeros(count, *shape_of((node, place)))
        if columns is None or axis is None
        else axis.mask(columns).flatten(0, 1)
        for place, (columns, axis) in enumerate(zip(given, layouts, strict=True))
    ]
    edges = [edge for _, edge in graph.below[node]]
    if isinstance(node, BackwardCFunction) and all(graph.kinds[below] == "AccumulateGrad" for below, _ in edges):
        found = _carry_to_leaves(graph, node, cotangents, numbers)
    else:
        found = _call_batched(node, cotangents, numbers)
    return {number: torch.unflatten(columns, 0, (layout.samples, len(known))) for number, columns in found.items()}


def _carry_to_leaves(
    graph: ModelGraph, node: Node, cotangents: Sequence[Tensor], numbers: Sequence[int]
) -> dict[int, Tensor]:
    """Return what a function makes of cotangents for parameters, by autograd's engine.

    The engine keeps what the function has saved. A compiled function that is called itself would release it.
    """
    edges = {number: edge for number, edge in graph.below[node] if number in numbers}
    targets = list(dict.fromkeys(edges.values()))
    sources = [(node, place) for place in range(len(cotangents))]
    carried = dict(zip(targets, carry(sources, targets, cotangents, graph.widest), strict=True))
    return {number: columns for number, edge in edges.items() if (columns := carried.pop(edge, None)) is not None}


def _call_batched(node: Any, cotangents: Sequence[Tensor], numbers: Sequence[int]) -> dict[int, Tensor]:
    """Call a node on batches of cotangents, and return what it gives for some of its inputs."""
    kept: list[int] = []

    def call(*given: Tensor) -> tuple[Tensor, ...]:
        result = node(*given) if callable(node) else node.apply(*given)
        results = result if isinstance(result, tuple) else (result,)
        kept[:] = [number for number in numbers if results[number] is not None]
        return tuple(results[number] for number in kept)

    try:
        with quiet_fallbacks():
            stacked: Sequence[Tensor] = torch.vmap(call)(*cotangents)
    except RuntimeError:  # the node has no batching rule
        rows = [call(*(tensor[place] for tensor in cotangents)) for place in range(len(cotangents[0]))]
        stacked = [torch.stack(same) for same in zip(*rows, strict=True)]
    found = {}
    for number, columns in zip(kept, stacked, strict=True):
        edge: Edge = node.next_functions[number]
        shape, dtype = shape_of(edge), dtype_of(edge)
        found[number] = unbroadcast(columns, shape, 1).to(dtype)
    return found


def unbroadcast(columns: Tensor, shape: Sequence[int], leading: int) -> Tensor:
    """Sum columns `[*leading, *output]` over the axes along which an input of the given shape was broadcast."""
    extra = columns.dim() - leading - len(shape)
    if extra:
        columns = columns.sum(tuple(range(leading, leading + extra)))
    axes = [leading + axis for axis, size in enumerate(shape) if size == 1 and columns.shape[leading + axis] != 1]
    return columns.sum(axes, keepdim=True) if axes else columns


def _right_factor(node: Any, values: Tensor, layout: SampleAxis, scale: float) -> StructuredInput | None:
    """Return the form for the weight B of a product `A B` whose rows are those of samples."""
    if layout.axis != 0:
        return None
    features, outputs = values.shape[1], shape_of((node, 0))[1]
    family = LinearFamily(1, outputs, features, weight_shape=(features, outputs), transposed=True)
    return StructuredInput(family, _apart(values, layout), lambda columns: _scaled(_apart(columns, layout, 1), scale))


def _left_factor(node: Any, values: Tensor, layout: SampleAxis, scale: float) -> StructuredInput | None:
    """Return the form for the weight A of a product `A B` whose columns are those of samples."""
    if layout.axis != 1:
        return None
    features, outputs = values.shape[0], shape_of((node, 0))[0]
    family = LinearFamily(1, outputs, features, weight_shape=(outputs, features), transposed=False)
    turned = SampleAxis(layout.samples, 0, layout.is_major)
    return StructuredInput(
        family, turned.split(values.T), lambda columns: _scaled(turned.split(columns.transpose(1, 2), 1), scale)
    )


def _apart(rows: Tensor, layout: SampleAxis, leading: int = 0) -> Tensor:
    """Return rows `[*leading, N · r, o]` as `[N, *leading, r, o]`, without the axis of the positions if r = 1."""
    if rows.shape[leading] != layout.samples:
        return layout.split(rows, leading)
    return rows.transpose(0, leading) if leading else rows


def _scaled(columns: Tensor, scale: float) -> Tensor:
    return columns if scale == 1 else columns * scale


def _batched_right_factor(node: Any, layout: SampleAxis) -> StructuredInput | None:
    values: Tensor = node._saved_self.detach()  # [g, N · L, f]
    if layout.axis != 1:
        return None
    groups, features, outputs = values.shape[0], values.shape[2], shape_of((node, 0))[2]
    family = LinearFamily(groups, outputs, features, weight_shape=(groups, features, outputs), transposed=True)
    return StructuredInput(family, layout.split(values), lambda columns: layout.split(columns, 1))


def _convolution(node: Any, layout: SampleAxis) -> StructuredInput | None:
    weight = node.next_functions[1]
    shape = shape_of(weight)
    values: Tensor = node._saved_input.detach()
    if layout != SampleAxis(len(values), 0) or len(shape) < 3:
        return None
    sizes = (tuple(shape), tuple(node._saved_stride), tuple(node._saved_padding), tuple(node._saved_dilation))
    family: WeightFamily
    if node._saved_transposed:
        family = TransposedConvolutionFamily(*sizes, node._saved_groups, tuple(node._saved_output_padding))
    else:
        family = ConvolutionFamily(*sizes, node._saved_groups)
    return StructuredInput(family, values, lambda columns: columns.transpose(0, 1))


def _embedding(node: Any, layout: SampleAxis) -> StructuredInput | None:
    indices: Tensor = node._saved_indices
    shape = shape_of(node.next_functions[0])
    if node._saved_sparse:
        raise CurvatureError("an embedding has no dense gradient. Use sparse=False for its layer.")
    if node._saved_scale_grad_by_freq or layout.axis >= indices.dim():
        return None
    padding = signed(node._saved_padding_idx)
    dtype = dtype_of((node, 0))
    dtype = torch.promote_types(dtype, torch.float32)
    family = EmbeddingFamily(shape[0], shape[1], dtype, None if padding < 0 else padding)
    return StructuredInput(family, layout.split(indices), lambda columns: layout.split(columns, 1))


_Structured = Callable[[Any, SampleAxis], StructuredInput | None]
_STRUCTURED: dict[tuple[str, int], _Structured] = {
    ("Addmm", 2): lambda node, layout: _right_factor(node, node._saved_mat1.detach(), layout, node._saved_alpha),
    ("Addmm", 1): lambda node, layout: _left_factor(node, node._saved_mat2.detach(), layout, node._saved_alpha),
    ("Mm", 1): lambda node, layout: _right_factor(node, node._saved_self.detach(), layout, 1),
    ("Mm", 0): lambda node, layout: _left_factor(node, node._saved_mat2.detach(), layout, 1),
    ("Bmm", 1): _batched_right_factor,
    ("Convolution", 1): _convolution,
    ("Embedding", 0): _embedding,
}
"""Structured forms by the kind of the node and the number of its shared input."""


def _of_broadcast(node: Any, number: int, layout: SampleAxis, columns: Tensor) -> Tensor | None:
    """Return the columns of an input that was broadcast along the axis of the samples."""
    shape = shape_of(node.next_functions[number])
    place = layout.axis - (columns.dim() - 1 - len(shape))
    if place >= 0 and shape[place] != 1:
        return None
    apart = layout.split(columns, 1)
    return unbroadcast(apart, shape, 2).reshape(layout.samples, len(columns), *shape)


def _addmm_bias(node: Any, number: int, layout: SampleAxis, columns: Tensor) -> Tensor | None:
    return _of_broadcast(node, number, layout, _scaled(columns, node._saved_beta)) if number == 0 else None


def _add(node: Any, number: int, layout: SampleAxis, columns: Tensor) -> Tensor | None:
    return _of_broadcast(node, number, layout, _scaled(columns, node._saved_alpha if number == 1 else 1))


def _subtract(node: Any, number: int, layout: SampleAxis, columns: Tensor) -> Tensor | None:
    return _of_broadcast(node, number, layout, -node._saved_alpha * columns if number == 1 else columns)


def _multiply(node: Any, number: int, layout: SampleAxis, columns: Tensor) -> Tensor | None:
    other: Tensor = node._saved_other if number == 0 else node._saved_self
    if other is None:
        return None
    return _of_broadcast(node, number, layout, columns * other.detach())


def _expand(node: Any, number: int, layout: SampleAxis, columns: Tensor) -> Tensor | None:
    return _of_broadcast(node, number, layout, columns)


def _convolution_bias(node: Any, number: int, layout: SampleAxis, columns: Tensor) -> Tensor | None:
    if number != 2 or layout.axis != 0 or not layout.is_major:
        return None
    return layout.split(columns, 1).flatten(4).sum((2, 4)) if columns.dim() > 3 else None


def _normalized(columns: Tensor, values: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
    return columns * ((values - mean) * rstd)


def _layer_norm(node: Any, number: int, layout: SampleAxis, columns: Tensor) -> Tensor | None:
    shape = node._saved_normalized_shape
    if number == 0 or layout.axis >= columns.dim() - 1 - len(shape):
        return None
    if number == 1:
        values: Tensor = node._saved_input
        columns = _normalized(columns, values.detach(), node._saved_result1, node._saved_result2)
    apart = layout.split(columns, 1)
    return unbroadcast(apart, shape, 2)


def _per_channel(columns: Tensor, layout: SampleAxis) -> Tensor:
    """Sum columns `[K, N · r, channels, ...]` over all but samples and channels, `[N, K, channels]`."""
    apart = layout.split(columns, 1)  # [N, K, r, channels, ...]
    return apart.reshape(*apart.shape[:4], -1).sum((2, 4))


def _batch_norm(node: Any, number: int, layout: SampleAxis, columns: Tensor) -> Tensor | None:
    if number == 0 or layout.axis != 0:
        return None
    if number == 1:
        values: Tensor = node._saved_input.detach()
        shape = (-1, *(1,) * (values.dim() - 2))
        if node._saved_training:
            mean, rstd = node._saved_result1, node._saved_result2
        else:
            mean, rstd = node._saved_running_mean, (node._saved_running_var + node._saved_eps).rsqrt()
        columns = _normalized(columns, values, mean.reshape(shape), rstd.reshape(shape))
    return _per_channel(columns, layout)


def _group_norm(node: Any, number: int, layout: SampleAxis, columns: Tensor) -> Tensor | None:
    if number == 0 or layout.axis != 0:
        return None
    if number == 1:
        values: Tensor = node._saved_input.detach()
        grouped = values.reshape(len(values), node._saved_group, -1)
        mean, rstd = (given.reshape(len(values), -1, 1) for given in (node._saved_result1, node._saved_result2))
        columns = columns * ((grouped - mean) * rstd).reshape(values.shape)
    return _per_channel(columns, layout)


_Formed = Callable[[Any, int, SampleAxis, Tensor], Tensor | None]
_FORMED: dict[str, _Formed] = {
    "Addmm": _addmm_bias,
    "Add": _add,
    "Sub": _subtract,
    "Mul": _multiply,
    "Expand": _expand,
    "Convolution": _convolution_bias,
    "NativeLayerNorm": _layer_norm,
    "NativeBatchNorm": _batch_norm,
    "NativeGroupNorm": _group_norm,
}
"""Rules for formed columns by the kind of the node."""

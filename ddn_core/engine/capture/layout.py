"""Layout: which edges of a graph keep the samples of a batch apart, and along which axis.

An edge keeps samples apart if the gradient at a position of one sample depends on the loss of that sample alone. This
is found by an exact probe: two backward passes with the same random cotangent at the model output, where that of the
second pass is multiplied by a power of two for each sample. A product with a power of two is exact. So where samples
are apart along an axis, the second gradient is the first one times the same powers, bit for bit; where they are not, no
axis fits. An edge that does not fit is shared by all samples: a parameter, an expression of parameters, or a tensor in
which samples have been mixed, as by batch statistics.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from ddn_core.engine.capture.graph import ModelGraph
from ddn_core.engine.nodes import Edge, device_of, dtype_of
from ddn_core.engine.sample_axis import SampleAxis

PROBED_ELEMENTS = 2**21
"""Number of elements of gradients that a probe may hold, however few those at all edges are."""

Layout = SampleAxis | None
"""Axis of the samples at an edge; `None` if samples share the edge."""

_OF_PARAMETERS = {
    *("AccumulateGrad", "T", "Transpose", "Permute", "View", "UnsafeView", "ReshapeAlias", "Unsqueeze", "Squeeze"),
    *("Clone", "Alias", "ToCopy", "Slice", "Select", "Split", "Unbind", "Cat", "Stack", "Add", "Sub", "Mul", "Mm"),
    *("WeightNormInterface", "Tanh", "Sigmoid", "Softplus", "Exp"),
}
"""Kinds of nodes that are taken for expressions of parameters if all their inputs are."""


def layouts_of(graph: ModelGraph, samples: SampleAxis) -> tuple[dict[Edge, Layout], bool]:
    """Return the layout of each edge, and whether all of them are certain.

    An edge that no gradient reaches, as behind a gate that is zero, gets a guess: in this pass every guess is right,
    because all columns are zero there.

    Args:
        graph: The graph below the model output.
        samples: Axis of the samples at the model output.
    """
    own = expressions_of_parameters(graph)
    layouts: dict[Edge, Layout] = dict.fromkeys(graph.shapes)
    layouts[graph.output] = samples
    certain = True
    for part in _parts(graph, [edge for edge in graph.shapes if edge != graph.output and edge[0] not in own]):
        found, is_certain = _probed_layouts(graph, part, samples)
        layouts |= found
        certain = certain and is_certain
    _spread_sharing(graph, layouts)
    return layouts, certain


def _parts(graph: ModelGraph, edges: Sequence[Edge]) -> Iterator[Sequence[Edge]]:
    """Yield the edges in parts that are probed one after the other, so that not all gradients are held at once.

    A part is at most a quarter of all elements, or `PROBED_ELEMENTS` if these are more; or one larger edge.
    """
    sizes = [graph.shapes[edge].numel() for edge in edges]
    most = max(PROBED_ELEMENTS, sum(sizes) // 4)
    part: list[Edge] = []
    held = 0
    for edge, size in zip(edges, sizes, strict=True):
        if part and held + size > most:
            yield part
            part, held = [], 0
        part.append(edge)
        held += size
    if part:
        yield part


def _probed_layouts(graph: ModelGraph, edges: Sequence[Edge], samples: SampleAxis) -> tuple[dict[Edge, Layout], bool]:
    """Return the layout of each edge that depends on the output, and whether all of them are certain."""
    layouts: dict[Edge, Layout] = {}
    certain = True
    for edge, one, other in zip(edges, *_probe(graph, edges, samples), strict=True):
        if one is None or other is None:
            continue
        if not bool(one.any()) and not bool(other.any()):
            certain = False
            layouts[edge] = _guess(graph.shapes[edge], samples.samples)
        else:
            layouts[edge] = _layout(graph, one, other, samples.samples)
    return layouts, certain


def traced_layouts(graph: ModelGraph, doubled: ModelGraph, samples: SampleAxis) -> dict[Edge, Layout]:
    """Return the layouts of a graph without data, from the shapes of the same model's graph for twice the batch.

    The axis of the samples is the one that is twice as long. An operation that mixes samples is not noticed.

    Args:
        graph: The graph.
        doubled: The graph for twice the batch.
        samples: Axis of the samples at the model output.
    """
    own = expressions_of_parameters(graph)
    layouts: dict[Edge, Layout] = {}
    for (edge, shape), other in zip(graph.shapes.items(), doubled.shapes.values(), strict=True):
        axes = [axis for axis, (one, two) in enumerate(zip(shape, other, strict=True)) if one != two]
        layouts[edge] = None if edge[0] in own or not axes else SampleAxis(samples.samples, axes[0])
    layouts[graph.output] = samples
    _spread_sharing(graph, layouts)
    return layouts


def powers(count: int, like: Tensor, few: bool = False) -> Tensor:
    """Return an irregular power of two for each sample, `[count]`.

    Args:
        count: Number of samples.
        like: Tensor whose dtype and device the powers get.
        few: True for 9 different powers, in the range of float16; False for 25.
    """
    numbers = 9 if few or like.dtype == torch.float16 else 25
    places = torch.arange(count, device=like.device)
    return torch.exp2(((places * 40503 + places // 7 * 2089) % 65537 % numbers - numbers // 2).to(like.dtype))


def _probe(
    graph: ModelGraph, edges: Sequence[Edge], samples: SampleAxis
) -> tuple[Sequence[Tensor | None], Sequence[Tensor | None]]:
    """Return the gradients at the edges for a random cotangent, and for the same times a power of two per sample."""
    shape = graph.shapes[graph.output]
    device, dtype = device_of(graph.output), dtype_of(graph.output)
    generator = torch.Generator(device).manual_seed(0)
    cotangent = torch.randn(shape, dtype=torch.promote_types(dtype, torch.float32), device=device, generator=generator)
    cotangent = cotangent.to(dtype)
    scaled = cotangent * samples.spread(powers(samples.samples, cotangent, graph.has_half), shape)
    first, second = (
        torch.autograd.grad(
            [GradientEdge(*graph.output)],
            [GradientEdge(*edge) for edge in edges],
            [one],
            retain_graph=True,
            allow_unused=True,
        )
        for one in (cotangent, scaled)
    )
    return first, second


def _layout(graph: ModelGraph, one: Tensor, other: Tensor, samples: int) -> Layout:
    """Return the axis along which the second gradient is the first times the powers, `None` if there is none."""
    tolerance = 64 * torch.finfo(one.dtype).eps
    factors = powers(samples, one, graph.has_half)
    for axis, size in enumerate(one.shape):
        if size == 0 or size % samples:
            continue
        for is_major in (True, False) if 1 < samples < size else (True,):
            layout = SampleAxis(samples, axis, is_major)
            expected = one * layout.spread(factors, one.shape)
            if torch.equal(other, expected) or bool(((other - expected).abs() <= tolerance * expected.abs()).all()):
                return layout
    return None


def _guess(shape: torch.Size, samples: int) -> Layout:
    axes = [axis for axis, size in enumerate(shape) if size and size % samples == 0]
    return SampleAxis(samples, axes[0]) if axes else None


def expressions_of_parameters(graph: ModelGraph, layouts: Mapping[Edge, Layout] | None = None) -> set[object]:
    """Return the nodes that are computed from parameters alone, as far as their kinds tell.

    Args:
        graph: The graph.
        layouts: Layout of each edge, if known. An embedding that samples share has the same indices for each sample,
            such as positions in a sequence.
    """
    own: set[object] = set()
    for node in reversed(graph.nodes):
        kind = graph.kinds[node]
        is_known = kind in _OF_PARAMETERS or (kind == "Embedding" and layouts is not None and layouts[node, 0] is None)
        if kind == "AccumulateGrad" or (
            is_known and all(below is not None and below in own for below, _ in node.next_functions)
        ):
            own.add(node)
    return own


_ELEMENTWISE = {
    *(
        "Relu",
        "Tanh",
        "Sigmoid",
        "Gelu",
        "Silu",
        "Elu",
        "Softplus",
        "LeakyRelu",
        "Hardtanh",
        "Hardswish",
        "Hardsigmoid",
    ),
    *(
        "LogSigmoid",
        "Exp",
        "Log",
        "Sin",
        "Cos",
        "Sqrt",
        "Rsqrt",
        "Pow",
        "Neg",
        "Abs",
        "Clamp",
        "Threshold",
        "Softshrink",
    ),
    *("Clone", "Alias", "ToCopy", "Add", "Sub", "Mul", "Div", "Mish", "Celu", "Selu", "NativeDropout", "Reciprocal"),
}
_RESHAPING = {
    *("View", "UnsafeView", "ReshapeAlias", "Transpose", "T", "Permute", "Unsqueeze", "Squeeze", "Expand", "Slice"),
    *("Select", "Unbind", "Split", "SplitWithSizes", "UnsafeSplit", "Cat", "Stack", "Sum", "Mean", "Softmax"),
}
_BATCHED = {
    *("Convolution", "MaxPool2DWithIndices", "AvgPool2D", "AvgPool3D", "AdaptiveAvgPool2D", "AdaptiveAvgPool3D"),
    *(
        "NativeLayerNorm",
        "NativeGroupNorm",
        "MaxPool3DWithIndices",
        "ConstantPadNd",
        "Bmm",
        "ScaledDotProductAttention",
    ),
    *("ScaledDotProductFlashAttentionForCpu", "ScaledDotProductFlashAttention", "ScaledDotProductEfficientAttention"),
}
_FIRST_INPUT = {"Addmm": 1, "Mm": 0}


def has_fixed_layouts(graph: ModelGraph, layouts: Mapping[Edge, Layout]) -> bool:
    """Return whether the layouts follow from kinds, shapes and numbers alone, whatever the values of the tensors.

    An index that permutes samples, or a matrix that mixes them, is a value: such a graph is checked in every pass.
    """
    for node in graph.nodes:
        kind = graph.kinds[node]
        axes = [layouts[edge] for edge in graph.outputs_of(node) if edge is not None]
        for number, edge in graph.below[node]:
            before = layouts[edge]
            if before is None:
                continue
            if kind in _ELEMENTWISE or kind in _RESHAPING or kind == "BackwardHookFunction":
                continue
            is_first = all(axis is not None and axis.axis == 0 for axis in axes) and before.axis == 0
            if is_first and (kind in _BATCHED or _FIRST_INPUT.get(kind) == number):
                continue
            if is_first and kind == "NativeBatchNorm":  # its mode is a number in the signature
                continue
            return False
    return True


def _spread_sharing(graph: ModelGraph, layouts: dict[Edge, Layout]) -> None:
    """Make all edges below a shared edge shared, and all outputs of a node with a shared one, in place."""
    for node in graph.nodes:
        outputs = [edge for edge in graph.outputs_of(node) if edge is not None]
        if graph.kinds[node] == "AccumulateGrad" or any(layouts[edge] is None for edge in outputs):
            for edge in (*outputs, *(edge for _, edge in graph.below[node])):
                layouts[edge] = None

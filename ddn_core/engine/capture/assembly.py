"""From columns at the sites to factors: the columns of each use of a parameter are collected, chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ddn_core.engine.capture.columns import BATCHED_ELEMENTS, carry
from ddn_core.engine.capture.destinations import Destinations, Use
from ddn_core.engine.capture.graph import ModelGraph
from ddn_core.engine.capture.sites import Site, formed, masked
from ddn_core.engine.factors import (
    Columns,
    FactorInput,
    FormedColumns,
    ParameterLayout,
    ProductColumns,
    SummedColumns,
    WeightLayout,
    form,
)
from ddn_core.engine.factors.product import SLICE_ELEMENTS
from ddn_core.engine.nodes import Edge


@dataclass(frozen=True)
class AssemblySettings:
    """Settings of the assembly.

    Attributes:
        dtype: Dtype of the factors.
        samples: Samples whose columns are kept; `None` for all.
        slice_elements: Largest number of elements of the columns that are formed at a time.
    """

    dtype: torch.dtype
    samples: Sequence[int] | None = None
    slice_elements: int = SLICE_ELEMENTS


class _UseColumns:
    """The columns of one use of parameters, while chunks of columns arrive."""

    def __init__(self, use: Use, count: int, may_form: bool, settings: AssemblySettings) -> None:
        self._use, self._count, self._settings = use, count, settings
        self._forms = may_form and use.is_kept_formed
        self._store: Tensor | None = None
        self._input = _factor_input(use, settings)

    def add(self, columns: slice, values: Tensor) -> None:
        """Add a chunk: the root `[N, k, *output]` of a structured use, or formed columns `[N, k, *shape]`."""
        settings = self._settings
        if settings.samples is not None:
            values = values[list(settings.samples)]
        values = values.to(settings.dtype)
        if self._input is None:
            values = values.reshape(*values.shape[:2], -1)
        else:
            values = self._input.family.root(values)
            if self._forms:
                values = _formed(values, self._input)
        if columns.stop - columns.start == self._count:
            self._store = values.contiguous()
            return
        if self._store is None:
            self._store = values.new_empty(len(values), self._count, *values.shape[2:])
        self._store[:, columns] = values

    def finish(self) -> Columns:
        """Return the columns, after all chunks were added."""
        assert self._store is not None
        use = self._use
        if self._input is None:
            return FormedColumns(self._store, ParameterLayout(use.parameters[0].shape))
        if self._forms:
            return FormedColumns(self._store.flatten(2), WeightLayout(self._input.family, use.names))
        return ProductColumns(self._store, self._input, self._settings.slice_elements)


def _factor_input(use: Use, settings: AssemblySettings) -> FactorInput | None:
    if use.form is None:
        return None
    values = use.form.values
    if settings.samples is not None:
        values = values[list(settings.samples)]
    if values.is_floating_point():
        values = values.to(settings.dtype)
    return FactorInput(use.form.family, values, use.names)


def _formed(root: Tensor, factor_input: FactorInput) -> Tensor:
    columns = form(root, factor_input.features())
    return torch.cat([columns, root.sum(-1, keepdim=True)], dim=-1) if factor_input.has_bias else columns


class Assembly:
    """Collects the columns of all parameters of a pass, chunk by chunk."""

    def __init__(
        self,
        graph: ModelGraph,
        sites: Sequence[Site],
        destinations: Destinations,
        count: int,
        settings: AssemblySettings,
        may_form: bool = True,
    ) -> None:
        """Begin without columns.

        Args:
            graph: The graph.
            sites: Its sites.
            destinations: What becomes of the columns at the sites.
            count: Number of columns for each sample.
            settings: Settings.
            may_form: Whether structured columns are stored formed where this needs no more memory.
        """
        self._graph, self._sites, self._destinations = graph, sites, destinations
        self._count, self._settings = count, settings
        self._uses = [_UseColumns(use, count, may_form, settings) for use in destinations.uses]
        self._below: dict[int, tuple[Tensor, Tensor]] = {}

    def add(self, columns: slice, given: Callable[[Edge], Tensor | None], only: Site | None = None) -> None:
        """Add a chunk of columns.

        Args:
            columns: Numbers of the columns.
            given: Returns the columns at an edge, `[k, *edge]`; `None` if there are none.
            only: The only site that has columns; all sites by default.
        """
        below: dict[Edge, Tensor] = {}
        for site in self._sites if only is None else [only]:
            at_outputs = [None if edge is None else given(edge) for edge in site.outputs]
            if all(one is None for one in at_outputs):
                continue
            self._visit(site, at_outputs, columns, below)
        if below:
            self._carry_below(below, columns)

    def _visit(self, site: Site, given: Sequence[Tensor | None], columns: slice, below: dict[Edge, Tensor]) -> None:
        plain: list[tuple[Use, _UseColumns]] = []
        for use, store in zip(self._destinations.uses, self._uses, strict=True):
            if use.site is not site:
                continue
            if use.form is None:
                plain.append((use, store))
            elif given[0] is not None:
                store.add(columns, use.form.root(given[0]))
        edges = {number: edge for other, number, edge in self._destinations.below if other is site}
        numbers = [use.numbers[0] for use, _ in plain] + list(edges)
        found = _shared_columns(self._graph, site, numbers, given)
        for use, store in plain:
            if use.numbers[0] in found:
                store.add(columns, found[use.numbers[0]])
        for number, edge in edges.items():
            if number in found:
                below[edge] = below[edge] + found[number] if edge in below else found[number]

    def _carry_below(self, below: Mapping[Edge, Tensor], columns: slice) -> None:
        """Carry formed columns `[N, k, *edge]` to the parameters below, some at a time."""
        nodes = self._graph.nodes_below(below)
        leaves: list[Edge] = [(node, 0) for node in nodes if self._graph.kinds[node] == "AccumulateGrad"]
        samples, count = next(iter(below.values())).shape[:2]
        chosen = range(samples) if self._settings.samples is None else self._settings.samples
        inside = set(nodes)
        widest = max(shape.numel() for (node, _), shape in self._graph.shapes.items() if node in inside)
        at_a_time = max(1, BATCHED_ELEMENTS // widest)
        flat = [
            values[list(chosen)].flatten(0, 1) if self._settings.samples is not None else values.flatten(0, 1)
            for values in below.values()
        ]
        parts: list[list[Tensor | None]] = []
        for start in range(0, len(flat[0]), at_a_time):
            given = [values[start : start + at_a_time] for values in flat]
            found = carry(list(below), leaves, given, widest)
            parts.append([None if one is None else one.reshape(len(one), -1).to(self._settings.dtype) for one in found])
        for (node, _), same in zip(leaves, zip(*parts, strict=True), strict=True):
            known = [one for one in same if one is not None]
            if not known:
                continue
            variable: Tensor = node.variable  # type: ignore[attr-defined]
            values = torch.unflatten(torch.cat(known), 0, (len(chosen), count))
            if id(variable) not in self._below:
                store = values.new_zeros(len(chosen), self._count, variable.numel())
                self._below[id(variable)] = variable, store
            self._below[id(variable)][1][:, columns] += values

    def finish(self) -> dict[tuple[int, ...], Columns]:
        """Return the columns by the `id`s of the parameters, after all chunks were added."""
        single: dict[tuple[int, ...], Columns] = {}
        several: dict[int, list[Columns]] = {}
        parameters: dict[int, Tensor] = {}
        for use, store in zip(self._destinations.uses, self._uses, strict=True):
            if store._store is None:
                continue
            if len(use.parameters) == 2:
                single[tuple(map(id, use.parameters))] = store.finish()
            else:
                several.setdefault(id(use.parameters[0]), []).append(store.finish())
                parameters[id(use.parameters[0])] = use.parameters[0]
        for key, (variable, values) in self._below.items():
            several.setdefault(key, []).append(FormedColumns(values, ParameterLayout(variable.shape)))
            parameters[key] = variable
        for key, columns in several.items():
            single[key,] = columns[0] if len(columns) == 1 else _sum(columns, parameters[key])
        return single


def _sum(columns: Sequence[Columns], parameter: Tensor) -> Columns:
    """Return the sum of the columns of the uses of a parameter: formed, unless this needs more memory."""
    summed = SummedColumns(columns, parameter.shape)
    roots = sum(one.held_elements for one in columns)
    if roots < summed.count * summed.size:
        return summed
    return FormedColumns(summed.formed().reshape(summed.samples, summed.per_sample, -1), summed.layout)


def _shared_columns(
    graph: ModelGraph, site: Site, numbers: Sequence[int], given: Sequence[Tensor | None]
) -> dict[int, Tensor]:
    """Return the formed columns `[N, k, *shape]` of some shared inputs of a site."""
    found: dict[int, Tensor] = {}
    left = []
    for number in numbers:
        columns = None
        if len(given) == 1 or site.kind.startswith("Native"):
            layout = site.layouts[0]
            if layout is not None and given[0] is not None:
                columns = formed(site.node, site.kind, number, layout, given[0])
        if columns is None:
            left.append(number)
        else:
            found[number] = columns
    if left:
        found |= masked(graph, site.node, left, site.layouts, given)
    return found

"""The part of autograd's graph between the model output and the wanted parameters."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Size
from torch.autograd.graph import GradientEdge, Node

from ddn_core.engine.nodes import Edge, dtype_of, kind_of, output_count, saved_numbers, shape_of, variable_of


class Reach:
    """The nodes of a graph from which wanted parameters can be reached.

    Attributes:
        wanted: `id`s of the wanted parameters.
        inputs: All nodes that were visited and lead to wanted parameters, each after all nodes below it, with their
            inputs that lead there: number of the input, and its edge.
    """

    def __init__(self, wanted: Collection[int]) -> None:
        """Begin without any nodes.

        Args:
            wanted: `id`s of the wanted parameters.
        """
        self.wanted = wanted
        self.inputs: dict[Node, tuple[tuple[int, Edge], ...]] = {}
        self._leads: dict[Node, bool] = {}

    def visit(self, top: Node) -> None:
        """Visit a node and all nodes below it."""
        stack: list[tuple[Node, Any]] = [(top, None)]
        leads = self._leads
        while stack:
            node, edges = stack.pop()
            if edges is not None:  # all nodes below were visited
                inputs = tuple([pair for pair in enumerate(edges) if leads.get(pair[1][0])])
                if inputs or id(getattr(node, "variable", None)) in self.wanted:
                    leads[node] = True
                    self.inputs[node] = inputs
            elif node not in leads:
                leads[node] = False
                edges = node.next_functions
                stack.append((node, edges))
                for below, _ in edges:
                    if below is not None:
                        stack.append((below, None))

    def leads(self, node: Node) -> bool:
        """Return whether a wanted parameter lies below a node that was visited."""
        return self._leads.get(node, False)


@dataclass(frozen=True, eq=False)
class ModelGraph:
    """The graph from the model output down to the wanted parameters.

    Attributes:
        output: Edge of the model output.
        nodes: Nodes that lead to wanted parameters, each before all nodes below it.
        kinds: Kind of each node, such as `Addmm`.
        below: For each node, its inputs that lead to wanted parameters: number of the input, and its edge.
        shapes: Shape of each edge that leads to wanted parameters, in the order of `nodes`.
    """

    output: Edge
    nodes: tuple[Node, ...]
    kinds: dict[Node, str]
    below: dict[Node, tuple[tuple[int, Edge], ...]]
    shapes: dict[Edge, Size]

    @classmethod
    def of(cls, output: GradientEdge, reach: Reach) -> ModelGraph:
        """Return the graph below an edge whose node was visited."""
        top: Edge = (output.node, output.output_nr)
        inside = _below(output.node, reach)
        nodes = tuple([node for node in reversed(reach.inputs) if node in inside])
        below = {node: reach.inputs[node] for node in nodes}
        shapes = {top: shape_of(top)}
        for node in nodes:
            for _, edge in below[node]:
                if edge not in shapes:
                    shapes[edge] = shape_of(edge)
        return cls(top, nodes, {node: kind_of(node) for node in nodes}, below, shapes)

    def signature(self) -> tuple[Any, ...]:
        """Return the kinds, shapes and connections of the nodes, and the numbers that they have saved.

        Two graphs with the same signature differ in the values of their tensors at most.
        """
        places = {node: place for place, node in enumerate(self.nodes)}
        parts: list[Any] = [self.output[1]]
        for node in self.nodes:
            inputs = tuple([(number, places[edge[0]], edge[1], self.shapes[edge]) for number, edge in self.below[node]])
            parts.append((self.kinds[node], inputs, saved_numbers(node), id(variable_of(node))))
        return tuple(parts)

    def outputs_of(self, node: Node) -> list[Edge | None]:
        """Return the edges of the outputs of a node; `None` for an output that leads nowhere."""
        edges: list[Edge | None] = [
            (node, number) if (node, number) in self.shapes else None for number in range(output_count(node))
        ]
        return edges

    def nodes_below(self, edges: Iterable[Edge]) -> list[Node]:
        """Return the nodes of edges and all nodes below them that lead to wanted parameters."""
        found: dict[Node, None] = {}
        stack = [node for node, _ in edges]
        while stack:
            node = stack.pop()
            if node not in found:
                found[node] = None
                stack += [other for _, (other, _) in self.below[node]]
        return list(found)

    @cached_property
    def dtypes(self) -> frozenset[torch.dtype]:
        """Dtypes of the edges."""
        return frozenset(map(dtype_of, self.shapes))

    @property
    def has_half(self) -> bool:
        """True if an edge is in float16."""
        return torch.float16 in self.dtypes

    @property
    def coarsest_precision(self) -> float:
        """Machine precision of the coarsest dtype at any edge."""
        return max(torch.finfo(dtype).eps for dtype in self.dtypes)

    @property
    def widest(self) -> int:
        """Largest number of elements at an edge."""
        return max(math.prod(shape) for shape in self.shapes.values())


def _below(top: Node, reach: Reach) -> set[Node]:
    found: set[Node] = set()
    stack = [top]
    while stack:
        node = stack.pop()
        if node not in found:
            found.add(node)
            stack += [other for _, (other, _) in reach.inputs.get(node, ())]
    return found

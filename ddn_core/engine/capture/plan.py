"""The plan of a capture: the layout of each edge and the sites, kept by the signature of the graph."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ddn_core.engine.capture.budget import CapturePlan
from ddn_core.engine.capture.graph import ModelGraph
from ddn_core.engine.capture.layout import Layout, expressions_of_parameters, has_fixed_layouts, layouts_of
from ddn_core.engine.capture.sites import Site
from ddn_core.engine.nodes import Edge
from ddn_core.engine.sample_axis import SampleAxis

FIRST_CHECKED, CHECKED_EVERY = 2, 64
"""A plan that follows from the signature is checked in its first passes, and then in each 64th one."""
KEPT = 64
"""Number of plans that are kept: models with inputs of many lengths have one for each."""


@dataclass(eq=False)
class GraphPlan:
    """The layout of each edge and the places of the sites, for all graphs with the same signature.

    Attributes:
        layouts: Layout of each edge, in the order of the graph's edges.
        sites: Number of the node of each site, and the numbers of its shared inputs.
        is_fixed: True if the layouts follow from the signature alone, whatever the values of the tensors.
        sizes: Operations, bytes and sizes of chunks, once they were computed.
        passes: Number of passes that used the plan.
    """

    layouts: tuple[Layout, ...]
    sites: tuple[tuple[int, tuple[int, ...]], ...]
    is_fixed: bool
    sizes: CapturePlan | None = None
    passes: int = 0

    @property
    def is_due(self) -> bool:
        """True if this pass checks what follows from the signature: in the first passes, and then from time to time."""
        return self.passes < FIRST_CHECKED or self.passes % CHECKED_EVERY == 0

    def layouts_of(self, graph: ModelGraph) -> dict[Edge, Layout]:
        """Return the layout of each edge of a graph."""
        return dict(zip(graph.shapes, self.layouts, strict=True))

    def sites_of(self, graph: ModelGraph) -> list[Site]:
        """Return the sites of a graph, each before all sites below it."""
        layouts = self.layouts_of(graph)
        found = []
        for place, numbers in self.sites:
            node = graph.nodes[place]
            outputs = tuple(graph.outputs_of(node))
            found.append(
                Site(
                    node,
                    graph.kinds[node],
                    outputs,
                    tuple(None if edge is None else layouts[edge] for edge in outputs),
                    tuple((number, edge) for number, edge in graph.below[node] if number in numbers),
                )
            )
        return found


def make_plan(graph: ModelGraph, samples: SampleAxis) -> tuple[GraphPlan, bool]:
    """Return the plan of a graph, and whether it is certain, so that it may be kept.

    Args:
        graph: The graph.
        samples: Axis of the samples at the model output.
    """
    layouts, is_certain = layouts_of(graph, samples)
    return plan_of(graph, layouts), is_certain


def plan_of(graph: ModelGraph, layouts: Mapping[Edge, Layout]) -> GraphPlan:
    """Return the plan of a graph with known layouts."""
    sites = []
    for place, node in enumerate(graph.nodes):
        outputs = [edge for edge in graph.outputs_of(node) if edge is not None]
        if graph.kinds[node] != "AccumulateGrad" and all(layouts[edge] is not None for edge in outputs):
            shared = tuple(number for number, edge in graph.below[node] if layouts[edge] is None)
            if shared:
                sites.append((place, shared))
    return GraphPlan(tuple(layouts[edge] for edge in graph.shapes), tuple(sites), has_fixed_layouts(graph, layouts))


def unknown_sharing(graph: ModelGraph, plan: GraphPlan) -> list[str]:
    """Return the kinds of sites at which a shared input is not known to be an expression of parameters alone."""
    own = expressions_of_parameters(graph, plan.layouts_of(graph))
    return sorted({site.kind for site in plan.sites_of(graph) if any(edge[0] not in own for _, edge in site.shared)})


class PlanStore:
    """Plans by the signature of the graph; the one that was not used for longest is dropped first."""

    def __init__(self) -> None:
        self._plans: OrderedDict[Any, GraphPlan] = OrderedDict()

    def get(self, signature: Any) -> GraphPlan | None:
        """Return the plan for a signature, `None` if there is none."""
        plan = self._plans.get(signature)
        if plan is not None:
            self._plans.move_to_end(signature)
        return plan

    def keep(self, signature: Any, plan: GraphPlan) -> None:
        """Keep a plan."""
        self._plans[signature] = plan
        if len(self._plans) > KEPT:
            self._plans.popitem(last=False)

    def drop(self, signature: Any) -> None:
        """Drop the plan for a signature."""
        self._plans.pop(signature, None)

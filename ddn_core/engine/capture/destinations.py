"""Destinations: what becomes of the columns at a site's shared input.

The shared input is a parameter, a transposed parameter, or an expression of parameters. For a parameter the columns are
kept, in the structured form of the site if it has one. For an expression the columns are formed and carried on, below
the site, to the parameters in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ddn_core.engine.capture.graph import ModelGraph
from ddn_core.engine.capture.sites import Site, StructuredInput, structured
from ddn_core.engine.factors import LinearFamily
from ddn_core.engine.nodes import Edge, shape_of, variable_of


@dataclass(frozen=True)
class WantedParameter:
    """A parameter whose factor is captured.

    Attributes:
        name: Name of the parameter in messages.
        parameter: The parameter.
        group: Number of its group. Weight and bias of an operation share a factor if they are in the same group.
    """

    name: str
    parameter: Tensor
    group: int


@dataclass(frozen=True, eq=False)
class Use:
    """A place where the model uses one or two parameters: a weight, a bias, or a weight with its bias.

    Attributes:
        site: The site.
        numbers: Numbers of the site's inputs: of the weight, and of the bias if it is part of this use.
        parameters: The parameters, in the same order.
        names: Roles of the parameters: `("weight", "bias")`, or one of them.
        form: Structured form of the columns; `None` if they are formed.
    """

    site: Site
    numbers: tuple[int, ...]
    parameters: tuple[Tensor, ...]
    names: tuple[str, ...]
    form: StructuredInput | None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Numbers of groups, outputs, features and positions; of one group with one output for formed columns."""
        if self.form is None:
            return 1, 1, self.parameters[0].numel(), 1
        groups, outputs, features = self.form.family.matrix_shape
        layout = self.site.layouts[0]
        assert layout is not None
        elements = layout.elements(shape_of((self.site.node, 0)))
        return groups, outputs, features + ("bias" in self.names), elements // (groups * outputs)

    @property
    def site_elements(self) -> int:
        """Number of elements of a column at the site's outputs, for one sample."""
        edges = zip(self.site.outputs, self.site.layouts, strict=True)
        return sum(axis.elements(shape_of(edge)) for edge, axis in edges if edge is not None and axis is not None)

    @property
    def is_kept_formed(self) -> bool:
        """True if the columns are stored formed, which they are if they need no more memory than the root."""
        _, _, features, positions = self.shape
        return self.form is None or features <= positions


@dataclass(frozen=True, eq=False)
class Destinations:
    """The uses of parameters, and the edges below which columns are carried on.

    Attributes:
        uses: The uses, in the order of the sites.
        below: Shared inputs of each site that are expressions of parameters, or mix samples: number and edge.
    """

    uses: tuple[Use, ...]
    below: tuple[tuple[Site, int, Edge], ...]

    def edges(self) -> list[Edge]:
        """Return the edges at which columns are needed: the outputs of all sites."""
        sites = [use.site for use in self.uses] + [site for site, _, _ in self.below]
        return list(dict.fromkeys(edge for site in sites for edge in site.outputs if edge is not None))

    def parameters_below(self, graph: ModelGraph) -> list[tuple[int, int, int]]:
        """Return `id` and size of each parameter below, and the number of elements of the shared inputs above it."""
        edges = [edge for _, _, edge in self.below]
        elements = sum(graph.shapes[edge].numel() for edge in edges)
        leaves = {id(leaf): leaf for node in graph.nodes_below(edges) if (leaf := variable_of(node)) is not None}
        return [(key, leaf.numel(), elements) for key, leaf in leaves.items()]


def destinations_of(graph: ModelGraph, sites: Sequence[Site], wanted: Mapping[int, WantedParameter]) -> Destinations:
    """Return what becomes of the columns at each site.

    Args:
        graph: The graph.
        sites: Its sites.
        wanted: The wanted parameters by `id`.
    """
    counts: dict[int, int] = {}
    direct: list[tuple[Site, int, Tensor, bool]] = []
    below: list[tuple[Site, int, Edge]] = []
    for site in sites:
        bias = _BIAS.get(site.kind)
        for number, edge in sorted(site.shared, key=lambda entry: entry[0] == bias):  # a bias after its weight
            leaf, is_turned = _leaf(graph, edge)
            if leaf is None:
                below.append((site, number, edge))
            else:
                counts[id(leaf)] = counts.get(id(leaf), 0) + 1
                direct.append((site, number, leaf, is_turned))
    reached_below = {id(variable_of(node)) for node in graph.nodes_below([edge for _, _, edge in below])}
    uses: list[Use] = []
    for site, number, leaf, is_turned in direct:
        form = _form(site, number, is_turned)
        is_alone = counts[id(leaf)] == 1 and id(leaf) not in reached_below
        weight = next((use for use in uses if use.site is site and use.form is not None), None)
        if (
            number == _BIAS.get(site.kind)
            and weight is not None
            and _adds_plainly(site)
            and is_alone
            and counts[id(weight.parameters[0])] == 1
            and id(weight.parameters[0]) not in reached_below
            and wanted[id(weight.parameters[0])].group == wanted[id(leaf)].group
            and leaf.numel() == weight.shape[0] * weight.shape[1]
        ):
            numbers, parameters = (*weight.numbers, number), (*weight.parameters, leaf)
            uses[uses.index(weight)] = Use(site, numbers, parameters, ("weight", "bias"), weight.form)
        else:
            uses.append(Use(site, (number,), (leaf,), ("weight",), form))
    return Destinations(tuple(uses), tuple(below))


_BIAS = {"Addmm": 0, "Convolution": 2}
"""Number of the input of the bias, by the kind of the node; the rules of these nodes add it without a factor."""


def _adds_plainly(site: Site) -> bool:
    """Return whether the node of a site adds the bias to the product without a factor on either."""
    node: Any = site.node
    return site.kind != "Addmm" or node._saved_alpha == node._saved_beta == 1


def _leaf(graph: ModelGraph, edge: Edge) -> tuple[Tensor | None, bool]:
    """Return the parameter at an edge, also if it is transposed or cast, and whether it is transposed.

    For an expression, `None` is returned.
    """
    is_turned = False
    while (kind := graph.kinds[edge[0]]) in ("T", "ToCopy"):
        is_turned ^= kind == "T"
        edge = graph.below[edge[0]][0][1]
    return variable_of(edge[0]), is_turned


def _form(site: Site, number: int, is_turned: bool) -> StructuredInput | None:
    """Return the structured form of the columns of a parameter, which may be transposed before its use."""
    layout = site.layouts[0]
    form = None if layout is None or len(site.outputs) > 1 else structured(site.node, site.kind, number, layout)
    if form is None or not is_turned:
        return form
    assert isinstance(form.family, LinearFamily)
    return StructuredInput(form.family.turned(), form.values, form.root)

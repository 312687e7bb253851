"""Verification: a kept plan still fits the graph, and the graph is linear.

One more column is carried: the sum of the others, times a power of two for each sample. Where samples are apart along
the axis that the plan says, it arrives as the sum of the other columns times the same powers.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ddn_core.engine.capture.graph import ModelGraph
from ddn_core.engine.capture.layout import Layout, powers
from ddn_core.engine.nodes import Edge
from ddn_core.engine.sample_axis import SampleAxis

NOISE = 64.0
"""Largest deviation at an edge whose gradient cancels, in rounding errors of the largest gradient at any edge."""


class Verification:
    """The check of one pass, while chunks of columns arrive at the sites."""

    def __init__(self, graph: ModelGraph, layouts: Mapping[Edge, Layout], samples: SampleAxis) -> None:
        """Begin without columns.

        Args:
            graph: The graph.
            layouts: Layout of each edge, according to the plan.
            samples: Axis of the samples at the model output.
        """
        self._graph, self._layouts, self._samples = graph, layouts, samples
        self._sums: dict[Edge, Tensor] = {}
        self._deviations: list[Tensor] = []
        self._sizes: list[Tensor] = []

    def extra(self, root: Tensor) -> Tensor:
        """Return the additional column at the model output."""
        total = root.sum(0)
        return total * self._samples.spread(powers(self._samples.samples, total, self._graph.has_half), total.shape)

    def take(self, edge: Edge, columns: Tensor | None, is_last: bool) -> Tensor | None:
        """Add up a chunk of columns, take the additional column from the last chunk, and return the rest."""
        if columns is None:
            return None
        own = columns[:-1] if is_last else columns
        total = own.sum(0) if len(own) > 1 else own[0]
        self._sums[edge] = self._sums[edge] + total if edge in self._sums else total
        if is_last:
            layout, total = self._layouts[edge], self._sums[edge]
            assert layout is not None
            expected = total * layout.spread(powers(layout.samples, total, self._graph.has_half), total.shape)
            self._deviations.append(torch.linalg.vector_norm(columns[-1] - expected))
            self._sizes.append(torch.linalg.vector_norm(expected))
        return own

    def passed(self) -> bool:
        """Return whether every edge keeps the samples apart as the plan says; this waits for the device."""
        if not self._deviations:
            return True
        deviations, sizes = (torch.stack([one.double() for one in some]) for some in (self._deviations, self._sizes))
        precision = self._graph.coarsest_precision
        # an edge whose gradient is nothing but rounding errors of the others has no layout
        return not bool((deviations > precision**0.5 * sizes + NOISE * precision * sizes.max()).any())

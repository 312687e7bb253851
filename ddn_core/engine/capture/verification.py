"""Verification: a kept plan still fits the graph, and the graph is linear.

One more column is carried: an irregular combination of the others, times a power of two for each sample. Where samples
are apart along the axis that the plan says, it arrives as that combination of the other columns times the same powers.
The plain sum may be zero at every edge, as that of the columns of a squared error is below a softmax. The others are
subtracted from the column as they arrive, so that no more than one tensor is kept at each site.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ddn_core.engine.capture.graph import ModelGraph
from ddn_core.engine.capture.layout import Layout, powers
from ddn_core.engine.nodes import Edge
from ddn_core.engine.sample_axis import SampleAxis

NOISE = 64.0
"""Largest deviation at an edge whose gradient cancels, in rounding errors of the largest gradient at any edge."""

GOLDEN = 0.5 * (5**0.5 - 1)
"""Number whose multiples are spread evenly, modulo 1, and follow no pattern of the outputs."""


class Verification:
    """The check of one pass, while chunks of columns arrive at the sites."""

    def __init__(
        self, graph: ModelGraph, layouts: Mapping[Edge, Layout], samples: SampleAxis, magnitude: float = 1.0
    ) -> None:
        """Begin without columns.

        Args:
            graph: The graph.
            layouts: Layout of each edge, according to the plan.
            samples: Axis of the samples at the model output.
            magnitude: Power of two by which the additional column is divided, so that its norm is in range.
        """
        self._magnitude = magnitude
        self._graph, self._layouts, self._samples = graph, layouts, samples
        self._powers: dict[Edge, Tensor] = {}
        self._left: dict[Edge, Tensor] = {}
        self._small: dict[tuple[object, ...], Tensor] = {}
        self._deviations: list[Tensor] = []
        self._sizes: list[Tensor] = []

    def extra(self, root: Tensor) -> Tensor:
        """Return the additional column at the model output, `[1, *output]`."""
        total = self._combination(root, 0)[None]
        return total * self._samples.spread(self._sample_powers(self._samples.samples, total), total.shape[1:])

    def expect(self, found: Mapping[Edge, Tensor | None]) -> dict[Edge, Tensor | None]:
        """Keep the additional column, the first of those at each edge, `[k, *edge]`, and return the others."""
        for edge, columns in found.items():
            if columns is not None:
                layout, shape = self._layouts[edge], columns.shape[1:]
                assert layout is not None
                self._powers[edge] = layout.spread(self._sample_powers(layout.samples, columns), shape)
                self._left[edge] = columns[0]
                self._sizes.append(torch.linalg.vector_norm(columns[0]))
        return {edge: None if columns is None else columns[1:] for edge, columns in found.items()}

    def take(self, found: Mapping[Edge, Tensor | None], begin: int, is_last: bool) -> None:
        """Subtract a chunk of columns times the powers from the additional one; keep its norm after the last chunk.

        Args:
            found: The chunk at each edge.
            begin: Number of its first column.
            is_last: Whether it is the last chunk.
        """
        for edge in list(self._left):
            left, columns = self._left.pop(edge), found[edge]
            if columns is not None:
                total = self._combination(columns, begin)
                # not in place, since edges may share the memory of a column
                left = torch.addcmul(left, total, self._powers[edge], value=-1)
            if is_last:
                self._deviations.append(torch.linalg.vector_norm(left))
            else:
                self._left[edge] = left

    def passed(self) -> bool:
        """Return whether every edge keeps the samples apart as the plan says; this waits for the device."""
        if not self._deviations:
            return True
        deviations, sizes = (torch.stack([one.double() for one in some]) for some in (self._deviations, self._sizes))
        precision = self._graph.coarsest_precision
        # an edge whose gradient is nothing but rounding errors of the others has no layout
        return not bool((deviations > precision**0.5 * sizes + NOISE * precision * sizes.max()).any())

    def _combination(self, columns: Tensor, begin: int) -> Tensor:
        """Return the sum of columns, each times a factor from 1 to 2 that depends on its number.

        Args:
            columns: The columns `[K, *shape]`.
            begin: Number of the first one.
        """

        def factors() -> Tensor:
            numbers = torch.arange(begin, begin + len(columns), dtype=torch.float64, device=columns.device)
            return (1 + numbers * GOLDEN % 1).to(columns.dtype)

        total: Tensor = torch.tensordot(
            self._kept(("factors", begin, len(columns), columns.dtype), factors), columns, 1
        )
        return total

    def _sample_powers(self, samples: int, like: Tensor) -> Tensor:
        def scaled_powers() -> Tensor:
            found = powers(samples, like, self._graph.has_half)
            return found if self._magnitude == 1 else found / self._magnitude

        return self._kept(("powers", samples, like.dtype), scaled_powers)

    def _kept(self, key: tuple[object, ...], make: Callable[[], Tensor]) -> Tensor:
        """Return a small tensor that many edges need, made once."""
        if key not in self._small:
            self._small[key] = make()
        return self._small[key]

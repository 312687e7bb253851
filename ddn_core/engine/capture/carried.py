"""Carried columns: before the backward pass, autograd's engine carries the root to the sites, chunk by chunk."""

from __future__ import annotations

import torch
from torch import Tensor

from ddn_core.engine.capture.assembly import Assembly
from ddn_core.engine.capture.columns import carry, is_batched
from ddn_core.engine.capture.destinations import Destinations
from ddn_core.engine.capture.graph import ModelGraph
from ddn_core.engine.capture.verification import Verification
from ddn_core.engine.nodes import Edge, dtype_of


def carry_root(
    graph: ModelGraph,
    destinations: Destinations,
    root: Tensor,
    at_a_time: int,
    assembly: Assembly | None,
    check: Verification | None,
) -> bool:
    """Carry the columns of a root to the sites, and return whether the plan fits the graph.

    Args:
        graph: The graph.
        destinations: What becomes of the columns at the sites.
        root: The columns at the model output, `[A, *output]`.
        at_a_time: Number of columns in a chunk.
        assembly: Collects the columns; `None` if they are carried for the check alone, and then dropped.
        check: The check of the plan; `None` for no check. Its additional column is carried with the others if all of
            them are batched, and otherwise alone and first, while no other column is held.
    """
    edges = [edge for edge in destinations.edges() if edge != graph.output]
    if not edges:
        check = None
    output_dtype = dtype_of(graph.output)
    is_one_chunk = at_a_time >= len(root) and is_batched(len(root) + 1, graph.widest)

    def arriving(columns: Tensor) -> dict[Edge, Tensor | None]:
        return dict(zip(edges, carry([graph.output], edges, [columns], graph.widest), strict=True))

    if check is not None and not is_one_chunk:
        check.expect(arriving(check.extra(root).to(output_dtype)))
    for start in range(0, len(root), at_a_time):
        columns = slice(start, min(start + at_a_time, len(root)))
        chunk = root[columns].to(output_dtype)
        is_last = columns.stop == len(root)
        if check is not None and is_one_chunk:
            found = check.expect(arriving(torch.cat([check.extra(root).to(output_dtype), chunk])))
        else:
            found = arriving(chunk)
        if check is not None:
            check.take(found, columns.start, is_last)
            if is_last and not check.passed():
                return False
        found[graph.output] = chunk
        if assembly is not None:
            assembly.add(columns, lambda edge, found=found: found.pop(edge, None))  # type: ignore[misc]
    return True

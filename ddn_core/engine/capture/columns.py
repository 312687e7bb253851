"""Columns are carried down the graph by autograd's own engine: from the model output to the sites, and below them.

One call of `torch.autograd.grad` on edges of the graph carries columns to all edges that need them. Several columns are
batched by `torch.vmap` where this saves calls. They are carried one by one where they are large, or where an operation
has no batching rule.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from ddn_core.engine.nodes import Edge

BATCHED_ELEMENTS = 2**21
"""Largest number of elements at the widest edge up to which columns are batched."""


def is_batched(count: int, widest: int) -> bool:
    """Return whether some number of columns is carried at once, rather than one by one.

    Args:
        count: Number of columns.
        widest: Number of elements of one column at the widest edge.
    """
    return count > 1 and count * widest <= BATCHED_ELEMENTS


def carry(
    sources: Sequence[Edge], targets: Sequence[Edge], cotangents: Sequence[Tensor], widest: int
) -> list[Tensor | None]:
    """Return what columns at some edges become at edges below them.

    Args:
        sources: Edges at which the columns are given.
        targets: Edges at which the columns are wanted.
        cotangents: The columns at each source, `[K, *source]`.
        widest: Number of elements of one column at the widest edge.

    Returns:
        For each target the columns `[K, *target]`, `None` if no source leads to it.
    """
    count = len(cotangents[0])
    if not targets:
        return []
    if is_batched(count, widest):
        try:
            return _carry_batched(sources, targets, cotangents)
        except RuntimeError:  # an operation has no batching rule, or it is a function without one
            pass
    return _carry_in_turn(sources, targets, cotangents)


@contextmanager
def quiet_fallbacks() -> Iterator[None]:
    """Hide torch's warning about operations that `torch.vmap` calls for one column after the other."""
    functorch: Any = torch._C._functorch
    switch = functorch._set_vmap_fallback_warning_enabled
    switch(False)
    try:
        yield
    finally:
        switch(True)


def _carry_batched(
    sources: Sequence[Edge], targets: Sequence[Edge], cotangents: Sequence[Tensor]
) -> list[Tensor | None]:
    outputs, inputs = [GradientEdge(*edge) for edge in sources], [GradientEdge(*edge) for edge in targets]
    kept: list[int] = []

    def backward(*given: Tensor) -> tuple[Tensor, ...]:
        found = torch.autograd.grad(outputs, inputs, given, retain_graph=True, allow_unused=True)
        kept[:] = [place for place, gradient in enumerate(found) if gradient is not None]
        return tuple(found[place] for place in kept)

    result: list[Tensor | None] = [None] * len(targets)
    with quiet_fallbacks():
        carried = torch.vmap(backward)(*cotangents)
    for place, columns in zip(kept, carried, strict=True):
        result[place] = columns
    return result


def _carry_in_turn(
    sources: Sequence[Edge], targets: Sequence[Edge], cotangents: Sequence[Tensor]
) -> list[Tensor | None]:
    outputs, inputs = [GradientEdge(*edge) for edge in sources], [GradientEdge(*edge) for edge in targets]
    count = len(cotangents[0])
    result: list[Tensor | None] = [None] * len(targets)
    for column in range(count):
        given = [columns[column] for columns in cotangents]
        found = torch.autograd.grad(outputs, inputs, given, retain_graph=True, allow_unused=True)
        for place, gradient in enumerate(found):
            if gradient is None:
                continue
            if count == 1:
                result[place] = gradient[None]
                continue
            if (store := result[place]) is None:
                store = result[place] = gradient.new_empty(count, *gradient.shape)
            store[column] = gradient
    return result

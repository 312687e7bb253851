"""Backward hooks of modules, which also run in the backward passes that carry columns."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from ddn_core.engine.capture.graph import ModelGraph

NOTICE = "Full backward hook is firing when gradients are computed with respect to module outputs"
"""Torch's warning about the hook of a first layer whose input needs no gradient: frequent and harmless."""


@contextmanager
def quiet_module_hooks(graph: ModelGraph) -> Iterator[None]:
    """Hide torch's notice about hooks of modules, if the graph has such hooks: those of BackPACK's `extend`, say."""
    if graph.nodes and "BackwardHookFunction" not in graph.kinds.values():
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=NOTICE)
        yield

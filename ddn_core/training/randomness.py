"""State of every random generator that a run draws from, as plain data for a checkpoint."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import Module

from ddn_core.errors import ArgumentError
from ddn_core.plugins.problem import Batches

DEPTH = 5
"""Depth of attributes that are searched for generators: loaders, loader, batch sampler, sampler, and one more."""


def seed_everything(seed: int) -> None:
    """Seed the generators of torch, Python and NumPy."""
    torch.manual_seed(seed)
    random.seed(seed)
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed(seed % 2**32)


def stream_of(seed: int, purpose: str) -> Generator:
    """Return a generator for one purpose, independent of the other uses of the seed."""
    return Generator().manual_seed(random.Random(f"{purpose} {seed}").getrandbits(63))


def drawn_from(stream: Generator, batches: Batches) -> Batches:
    """Yield batches, which draw from `stream` in place of torch's global generator.

    The order of the data then does not depend on the random numbers that a step needs for Monte-Carlo samples or for
    dropout, and all optimizers see the same batches.
    """
    draws = iter(batches)
    while True:
        steps = torch.get_rng_state()
        torch.set_rng_state(stream.get_state())
        try:
            batch = next(draws, None)
        finally:
            stream.set_state(torch.get_rng_state())
            torch.set_rng_state(steps)
        if batch is None:
            return
        yield batch


def random_state(batches: Any) -> dict[str, Any]:
    """Return the states of the generators of torch, Python and NumPy, and of those in `batches`.

    Args:
        batches: The source of the batches; its attributes are searched for generators, and theirs in turn.
    """
    version, numbers, gauss = random.getstate()
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": [version, list(numbers), gauss],
        "batches": {path: generator.get_state() for path, generator in generators_in(batches)},
    }
    if (numpy := sys.modules.get("numpy")) is not None:
        name, keys, *rest = numpy.random.get_state()
        state["numpy"] = [name, torch.tensor(keys.astype("int64")), *rest]
    return state


def set_random_state(state: dict[str, Any], batches: Any) -> None:
    """Restore the state of every generator that `random_state` returned.

    Raises:
        ArgumentError: The batches have a generator that is missing in the state.
    """
    if missing := [path for path, _ in generators_in(batches) if path not in state["batches"]]:
        raise ArgumentError(f"The checkpoint has no state of the generator{missing[0]} in the batches of the problem.")
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    for path, generator in generators_in(batches):
        generator.set_state(state["batches"][path])
    if "numpy" in state:
        import numpy

        name, keys, *rest = state["numpy"]
        numpy.random.set_state((name, keys.numpy().astype("uint32"), *rest))


def generators_in(place: Any, path: str = "", depth: int = DEPTH) -> Iterator[tuple[str, Generator]]:
    """Yield each generator in the attributes of an object once, with its path."""
    seen: set[int] = set()
    waiting = [(path, place, depth)]
    while waiting:
        path, place, depth = waiting.pop()
        for name, value in sorted(getattr(place, "__dict__", {}).items()):
            if id(value) in seen:
                continue
            seen.add(id(value))
            if isinstance(value, Generator):
                yield f"{path}.{name}", value
            elif depth > 1 and not isinstance(value, Tensor | Module | type):
                waiting.append((f"{path}.{name}", value, depth - 1))

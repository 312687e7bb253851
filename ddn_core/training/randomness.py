"""Every random generator that a run may draw from, as plain data: what a resumed run goes on with."""

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
"""How deep batches are searched for generators: loaders, loader, batch sampler, sampler, and one more."""


def seed_everything(seed: int) -> None:
    """Seed torch's generators, Python's and NumPy's."""
    torch.manual_seed(seed)
    random.seed(seed)
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed(seed % 2**32)


def stream_of(seed: int, purpose: str) -> Generator:
    """Return a generator for one purpose, which has nothing to do with what else the seed is for."""
    return Generator().manual_seed(random.Random(f"{purpose} {seed}").getrandbits(63))


def drawn_from(stream: Generator, batches: Batches) -> Batches:
    """Yield batches; what they draw from torch's own generator comes from a stream of theirs.

    How many random numbers a step takes, for its Monte-Carlo samples or for dropout, is then nothing to the order of
    the data: all optimizers see the same batches.
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
    """Return the states of torch's generators, Python's, NumPy's, and those that batches hold.

    Args:
        batches: What gives the batches; generators are looked for in its attributes and in theirs.
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
    """Put every generator into the state that `random_state` told of.

    Raises:
        ArgumentError: The batches have a generator that was not there.
    """
    if missing := [path for path, _ in generators_in(batches) if path not in state["batches"]]:
        raise ArgumentError(f"the checkpoint has no state of the generator{missing[0]} of the problem's batches.")
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
    """Yield the generators in an object's attributes, each once, with the path that leads there."""
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

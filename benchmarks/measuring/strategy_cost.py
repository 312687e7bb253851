"""Time of criteria and dampings for given directions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch
from pydantic import TypeAdapter

from benchmarks.measuring.clock import seconds_of
from ddn_core.api import AnyCriterion, AnyDamping
from ddn_core.plugins.describe import example
from ddn_core.plugins.discovery import BUILTIN
from ddn_core.plugins.registry import installed_registry
from ddn_core.testing import typical_directions

_ADAPTERS: dict[str, TypeAdapter[Any]] = {"criterion": TypeAdapter(AnyCriterion), "damping": TypeAdapter(AnyDamping)}


def strategies() -> dict[str, Callable[..., Any]]:
    """Return every built-in strategy with the fields of its documented example, by family and kind."""
    (builtin,) = (record for record in installed_registry().plugins() if record.name == BUILTIN)
    return {
        f"{family} {kind}": _ADAPTERS[family].validate_python(example(cls))
        for family in _ADAPTERS
        for kind, cls in builtin.components[family].items()
    }


def time_strategies(directions: int, samples: int, outputs: int, repetitions: int, device: str) -> dict[str, Any]:
    """Return the median times of all strategies, and of the eigendecomposition that precedes them, in float32.

    Args:
        directions: Number of directions K.
        samples: Number of samples N.
        outputs: Number of outputs C; there are `N · C` columns.
        repetitions: Number of timed calls, after one as warm-up.
        device: Device of the directions.
    """
    made = typical_directions(directions, samples, outputs, torch.float32)
    gram = (made.evecs * made.evals) @ made.evecs.T
    calls: dict[str, Callable[[], Any]] = {"eigh": partial(torch.linalg.eigh, gram)}
    for name, strategy in strategies().items():
        calls[name] = partial(strategy, made)
    found: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repetitions + 1):
        for name, call in calls.items():
            spent = seconds_of(call, device)
            if turn:
                found[name].append(spent)
    return {name: {"seconds": median(times)} for name, times in found.items()}

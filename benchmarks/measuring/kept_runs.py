"""Results of runs that are kept in files, so that a run which nothing has changed is not repeated."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.everyday.problem import EverydayProblem
from ddn_core.files import write_atomically

_DIGITS = 12


def fingerprint(problem: EverydayProblem, seed: int) -> str:
    """Return a hash of a problem: its data, initial model, loss, batch size and number of epochs.

    The loss and the test error are represented by their values at the initial model.

    Args:
        problem: Problem.
        seed: Seed of the initial weights.
    """
    model = problem.model(seed)
    digest = hashlib.sha256()
    initial = (problem.training_loss(model), problem.test_error(model))
    digest.update(repr((model, problem.batch_size, problem.epochs, [f"{value:.3e}" for value in initial])).encode())
    for tensor in (
        *(values for samples in (problem.training, problem.test) for values in (samples.inputs, samples.targets)),
        *(value.detach() for value in model.state_dict().values()),
    ):
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:_DIGITS]


def kept(path: Path, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the result in a file or, if there is none, of a run, and write it there.

    Args:
        path: File.
        run: Function that returns the result, as plain data.
    """
    if path.exists():
        found: dict[str, Any] = json.loads(path.read_text())
        return found
    result = run()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(result).encode())
    return result

"""Training steps of the optimizer: a model with a batch, and the settings of the optimizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.architectures.perceptron import perceptron
from benchmarks.architectures.transformer import TokenCrossEntropy, Transformer
from benchmarks.cases import Case
from benchmarks.problems import Batch, make_problem

_SEED = 3
_MONTE_CARLO = {"curvature": {"kind": "ggn-mc", "mc_samples": 1, "seed": 0}}
_DAMPED = {"damping": 1.0}
_DEFAULT = {"lr": 1.0}
_TOP_10 = {
    "groups": [
        {"params": ["*"], "criterion": {"kind": "top-k", "k": 10}, "damping": {"kind": "constant", "value": 1.0}}
    ]
}


@dataclass(frozen=True)
class Workload:
    """A training step to measure.

    Attributes:
        title: Model and batch size, in tables.
        strategy: Curvature and directions, in tables.
        make: Function that returns the batch with its model on the CPU, the same every time.
        settings: Keyword arguments of `DirectionalDampedNewton`.
        is_restored: Whether the parameters are restored before each step. An averaged iterate has a state that does
            not fit restored parameters: its steps follow one another, each on a batch with other inputs.
        turns: Number of turns for each that was asked for; steps of less than a millisecond need more.
    """

    title: str
    strategy: str
    make: Callable[[], Batch]
    settings: Mapping[str, Any]
    is_restored: bool = True
    turns: int = 1


def _perceptron(*widths: int) -> Batch:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        model = perceptron(list(widths))
        return Batch(model, nn.CrossEntropyLoss(), torch.randn(64, widths[0]), torch.randint(widths[-1], (64,)))


def _transformer() -> Batch:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        model = Transformer(vocabulary=256, length=32, width=64, layers=2, heads=4)
        return Batch(model, TokenCrossEntropy(), torch.randint(256, (16, 32)), torch.randint(256, (16, 32)))


def _convolutional(problem: str, samples: int) -> Workload:
    case = Case(problem, samples=samples, curvature="mc-1")
    title = f"{case.architecture.title}, N = {samples}"
    return Workload(title, "MC-1, top 10", partial(make_problem, case), _MONTE_CARLO | _TOP_10)


_SMALL = partial(_perceptron, 30, 64, 64, 2)

WORKLOADS: dict[str, Workload] = {
    "mlp-30": Workload("MLP 30-64-64-2, N = 64", "exact, all", _SMALL, _DAMPED, turns=20),
    "mlp-784": Workload("MLP 784-256-128-10, N = 64", "exact, all", partial(make_problem, Case("mlp-784")), _DAMPED),
    **{f"{problem}-{n}": _convolutional(problem, n) for problem in ("2c2d", "3c3d") for n in (32, 128)},
    "transformer": Workload("transformer, N = 16, T = 32", "MC-1, all", _transformer, _MONTE_CARLO | _DAMPED),
    "default-mlp-30": Workload("MLP 30-64-64-2, N = 64", "default", _SMALL, _DEFAULT, False, 20),
    "default-mlp-64": Workload(
        "MLP 64-64-64-10, N = 64", "default", partial(_perceptron, 64, 64, 64, 10), _DEFAULT, False, 20
    ),
    "default-2c2d": Workload(
        "2C2D, N = 64", "default", partial(make_problem, Case("2c2d", samples=64)), _DEFAULT, False
    ),
    "default-transformer": Workload("transformer, N = 16, T = 32", "default", _transformer, _DEFAULT, False),
}
"""All workloads by name."""

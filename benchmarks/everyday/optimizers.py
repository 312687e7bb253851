"""The sides of the comparison on everyday problems: first-order optimizers, L-BFGS, and ours without any setting."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.everyday.problem import EverydayProblem, Samples
from ddn_core import DirectionalDampedNewton

Train = Callable[[Samples], Any]
"""Function that trains on a batch."""

_ADAM_RATES, _SGD_RATES = (1e-3, 5e-3, 2e-2, 6e-2), (3e-3, 1e-2, 5e-2, 0.2)


class Side(ABC):
    """One way to train a model."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Name of the side in results."""

    @abstractmethod
    def start(self, model: nn.Module, problem: EverydayProblem) -> Train:
        """Return a function that trains the model on a batch.

        Args:
            model: Model, with its initial weights.
            problem: Problem, with the loss.
        """


@dataclass(frozen=True)
class FirstOrder(Side):
    """An optimizer of torch that makes a step for each batch.

    Attributes:
        optimizer: Name of the optimizer, in tables.
        rate: Learning rate.
        make: Function that returns the optimizer of parameters, with a learning rate `lr`.
    """

    optimizer: str
    rate: float
    make: Callable[..., torch.optim.Optimizer] = field(compare=False)

    @property
    def name(self) -> str:
        """Name with the learning rate."""
        return f"{self.optimizer} {self.rate:g}"

    def start(self, model: nn.Module, problem: EverydayProblem) -> Train:
        """Return a function that makes a step on a batch."""
        optimizer = self.make(model.parameters(), lr=self.rate)

        def train(batch: Samples) -> None:
            optimizer.zero_grad()
            torch.autograd.backward(problem.task.loss(model, batch))
            optimizer.step()

        return train


FIRST_ORDER = (
    *(FirstOrder("Adam", rate, torch.optim.Adam) for rate in _ADAM_RATES),
    *(FirstOrder("AdamW", rate, torch.optim.AdamW) for rate in _ADAM_RATES),
    *(FirstOrder("SGD", rate, partial(torch.optim.SGD, momentum=0.9, nesterov=True)) for rate in _SGD_RATES),
)
"""The twelve first-order settings."""


def default(model: nn.Module) -> DirectionalDampedNewton:
    """Return our optimizer without any setting."""
    return DirectionalDampedNewton(model.named_parameters())


MakeOurs = Callable[[nn.Module], DirectionalDampedNewton]
"""Function that returns our optimizer for a model."""

PRESETS: dict[str, MakeOurs] = {"default": default}
"""Functions that return our optimizer for a model, by name."""


def preset(name: str) -> MakeOurs:
    """Return the function that makes our optimizer for a model.

    Args:
        name: A key of `PRESETS`, or `module:function` for a function elsewhere.

    Raises:
        ValueError: There is no such preset.
    """
    if name in PRESETS:
        return PRESETS[name]
    module, separator, function = name.partition(":")
    if not separator:
        raise ValueError(f"There is no preset {name!r}. Use one of {', '.join(PRESETS)}, or module:function.")
    made: MakeOurs = getattr(importlib.import_module(module), function)
    return made


@dataclass(frozen=True)
class Ours(Side):
    """Our optimizer.

    Attributes:
        preset: Name of the preset.
        make: Function that returns the optimizer for a model.
        has_closure: Call `step(closure)`, rather than `backward(loss)` and `step()`.
    """

    preset: str
    make: MakeOurs
    has_closure: bool

    @property
    def name(self) -> str:
        """Name of the preset, and how it is called."""
        return f"{self.preset}, {'with' if self.has_closure else 'without'} closure"

    def start(self, model: nn.Module, problem: EverydayProblem) -> Train:
        """Return a function that makes a step on a batch."""
        optimizer = self.make(model)

        def train_without(batch: Samples) -> None:
            optimizer.zero_grad()
            optimizer.backward(problem.task.loss(model, batch))
            optimizer.step()

        def train_with(batch: Samples) -> None:
            def closure() -> Tensor:
                optimizer.zero_grad()
                loss = problem.task.loss(model, batch)
                torch.autograd.backward(loss)
                return loss

            optimizer.step(closure)

        return train_with if self.has_closure else train_without


def our_sides(presets: tuple[str, ...]) -> list[Ours]:
    """Return our sides: each preset without and with a closure.

    Args:
        presets: Names, as of `preset`.

    Raises:
        ValueError: There is no such preset.
    """
    return [Ours(name, preset(name), has_closure) for name in presets for has_closure in (False, True)]

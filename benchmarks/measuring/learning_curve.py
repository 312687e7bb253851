"""Training on an everyday problem: the loss on all training data, and the time of the steps, after each epoch."""

from __future__ import annotations

from collections.abc import Callable
from math import inf, isfinite
from time import perf_counter, process_time
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.everyday.data import generator
from benchmarks.everyday.optimizers import Side
from benchmarks.everyday.problem import EverydayProblem
from ddn_core.errors import NonFiniteError

_ORDER_SEED = 1000
L_BFGS = "L-BFGS"
"""Name of L-BFGS in results."""


class LearningCurve:
    """Losses and times of a run. Its clocks stand still while a loss is evaluated.

    Attributes:
        losses: Loss on all training data: before the first epoch, and after each epoch.
        seconds: Processor time of all epochs so far.
        wall_seconds: Time of all epochs so far, by the clock.
    """

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.seconds: list[float] = []
        self.wall_seconds: list[float] = []
        self._start_clocks()

    def _start_clocks(self) -> None:
        self._started = process_time(), perf_counter()

    def note(self, evaluate: Callable[[], float]) -> None:
        """Evaluate and keep the loss, which is infinite if it is not finite, and the times up to now."""
        for kept, now, started in zip(
            (self.seconds, self.wall_seconds), (process_time(), perf_counter()), self._started, strict=True
        ):
            kept.append(kept[-1] + now - started if kept else 0.0)
        loss = evaluate()
        self.losses.append(loss if isfinite(loss) else inf)
        self._start_clocks()


def train(problem: EverydayProblem, side: Side, seed: int) -> dict[str, Any]:
    """Return the learning curve and the test error of a run, which ends early if a loss is not finite.

    The order of the data depends on the seed alone, so that it is the same for all sides.

    Args:
        problem: Problem.
        side: Optimizer.
        seed: Seed of the initial weights and of the order of the data.
    """
    model, order, curve = problem.model(seed), generator(_ORDER_SEED + seed), LearningCurve()
    step = side.start(model, problem)
    curve.note(lambda: problem.training_loss(model))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # dropout draws from the global generator
        try:
            for _ in range(problem.epochs):
                for batch in problem.batches(order):
                    step(batch)
                curve.note(lambda: problem.training_loss(model))
                if not isfinite(curve.losses[-1]):
                    break
        except NonFiniteError:
            curve.note(lambda: inf)
    return _record(problem, model, curve)


def train_l_bfgs(problem: EverydayProblem, seed: int) -> dict[str, Any]:
    """Return the learning curve and the test error of L-BFGS with strong Wolfe conditions.

    An evaluation of the loss and its gradient counts as an epoch. The last line search may exceed the number of epochs.

    Args:
        problem: Problem in which each batch has all samples.
        seed: Seed of the initial weights.
    """
    model, curve = problem.model(seed), LearningCurve()
    optimizer = torch.optim.LBFGS(
        model.parameters(),
        max_iter=problem.epochs,
        max_eval=problem.epochs,
        tolerance_grad=0.0,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = problem.task.loss(model, problem.training)
        torch.autograd.backward(loss)
        curve.note(loss.item)
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    curve.note(lambda: problem.training_loss(model))
    return _record(problem, model, curve)


def _record(problem: EverydayProblem, model: nn.Module, curve: LearningCurve) -> dict[str, Any]:
    error = problem.test_error(model)
    return {
        "losses": curve.losses,
        "seconds": curve.seconds,
        "wall_seconds": curve.wall_seconds,
        "test_error": error if isfinite(error) else inf,
    }

"""Base class of the sides of the comparison."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from benchmarks.cases import Case
from benchmarks.problems import Problem, make_problem

LEARNING_RATE = 0.1


class Side(ABC):
    """One way to make a full step: forward pass, backward pass, direction, parameter update.

    Attributes:
        case: Case to measure.
        problem: This side's own copy of the problem.
    """

    def __init__(self, case: Case, device: str = "cpu") -> None:
        """Set the side up. This is not measured.

        Args:
            case: Case to measure.
            device: Device of the problem.
        """
        self.case = case
        self.problem: Problem = make_problem(case, device)
        self._start = [parameter.detach().clone() for parameter in self.problem.model.parameters()]

    @abstractmethod
    def direction(self) -> list[Tensor]:
        """Return the direction of the update, in the order of `model.parameters()`."""

    def step(self) -> None:
        """Make a full step. This is what is measured."""
        for parameter in self.problem.model.parameters():
            parameter.grad = None
        moves = self.direction()
        with torch.no_grad():
            for parameter, move in zip(self.problem.model.parameters(), moves, strict=True):
                parameter.add_(move, alpha=LEARNING_RATE)

    @torch.no_grad()
    def restore(self) -> None:
        """Restore the initial parameters, so that every step is the same. This is not measured."""
        for parameter, start in zip(self.problem.model.parameters(), self._start, strict=True):
            parameter.copy_(start)

    @torch.no_grad()
    def is_finite(self) -> bool:
        """Return whether the parameters are finite. This is not measured."""
        return all(bool(torch.isfinite(parameter).all()) for parameter in self.problem.model.parameters())

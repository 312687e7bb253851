"""A small third-party package: one damping, one that adapts, one criterion, one problem."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field, PositiveFloat, PositiveInt, PrivateAttr
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from ddn_core.api import Criterion, Damping, Directions, Outcome, Problem, ProblemParts, hookimpl


class SpectralFloor(Damping, kind="acme/spectral-floor"):
    """Lift every direction to a fraction of the largest eigenvalue."""

    fraction: PositiveFloat = Field(1e-3, description="Fraction of the largest eigenvalue, without unit.")

    def damp(self, directions: Directions) -> Tensor:
        """Return max(0, fraction · max λ - λ_k) + a millionth of the largest eigenvalue."""
        evals = directions.evals
        return (self.fraction * evals.max() - evals).clamp(min=1e-6 * float(evals.max()))


class Ratio(Damping, kind="acme/ratio"):
    """Damp more after a step that did worse than predicted, less after one that did not."""

    requires: ClassVar[frozenset[str]] = frozenset({"loss_after"})
    start: PositiveFloat = Field(1.0, description="Damping of the first step, in loss/param².")
    _factor: float = PrivateAttr(1.0)

    def damp(self, directions: Directions) -> Tensor:
        """Return the present damping."""
        return torch.full_like(directions.evals, self.start * self._factor)

    def observe(self, outcome: Outcome) -> None:
        """Compare the decrease with the prediction."""
        assert outcome.loss_after is not None
        worse = outcome.loss_before - outcome.loss_after < 0.5 * outcome.predicted_decrease
        self._factor *= 2.0 if worse else 0.9


class EverySecond(Criterion, kind="acme/every-second"):
    """Keep every second direction, beginning with the largest."""

    def select(self, directions: Directions) -> list[int]:
        """Return every second index."""
        return list(range(len(directions) - 1, -1, -2))


class Line(Problem, kind="acme/line"):
    """Fit a line."""

    samples: PositiveInt = Field(32, description="Number of samples.")

    def load(self) -> ProblemParts:
        """Return a linear model and noisy data."""
        inputs = torch.rand(self.samples, 1)
        data = TensorDataset(inputs, 2 * inputs + 1)
        batches = DataLoader(data, batch_size=16)
        return ProblemParts(
            nn.Sequential(nn.Linear(1, 1)),
            nn.MSELoss(),
            batches,
            batches,
            {"error": lambda outputs, targets: (outputs - targets).abs().flatten()},
        )


@hookimpl
def ddn_dampings() -> list[type[Damping]]:
    """Return the dampings."""
    return [SpectralFloor, Ratio]


@hookimpl
def ddn_criteria() -> list[type[Criterion]]:
    """Return the criterion."""
    return [EverySecond]


@hookimpl
def ddn_problems() -> list[type[Problem]]:
    """Return the problem."""
    return [Line]

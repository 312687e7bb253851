"""Shapes of the objects that the plots draw.

The rooms of runs and traces use the plots to represent themselves in a notebook, so the plots import neither: they draw
every object that has these attributes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from ddn_core.measures import DampedChoice

if TYPE_CHECKING:
    from torch import Tensor


class Step(Protocol):
    """A training step, such as `ddn_core.runs.StepEvent`."""

    @property
    def step(self) -> int:
        """Number of the step, from 0."""

    @property
    def loss(self) -> float:
        """Loss of the batch before the step."""

    @property
    def predicted_decrease(self) -> float | None:
        """Decrease of the loss that the quadratic model predicted."""

    @property
    def loss_after(self) -> float | None:
        """Loss of the same batch after the step."""


class Evaluation(Protocol):
    """An evaluation, such as `ddn_core.runs.EvaluationEvent`."""

    @property
    def step(self) -> int:
        """Number of steps before the evaluation."""

    @property
    def train_loss(self) -> float:
        """Mean loss of the batches since the evaluation before."""

    @property
    def test_loss(self) -> float:
        """Loss of the test data."""

    @property
    def test_metrics(self) -> Mapping[str, float]:
        """Metrics of the test data, by name."""


class HasSpectra(Protocol):
    """Eigenvalues over time, such as in a `Trace`, a `RunRecord`, or a `History`."""

    @property
    def spectra(self) -> Mapping[int, Sequence[Tensor] | Mapping[int, Tensor]]:
        """By step, the eigenvalues of each group."""


class RunHistory(Protocol):
    """Steps, epochs and spectra of a run, such as `ddn_core.runs.History`."""

    @property
    def steps(self) -> Sequence[Step]:
        """The training steps."""

    @property
    def epochs(self) -> Sequence[Evaluation]:
        """The evaluations at the end of each epoch."""

    @property
    def spectra(self) -> Mapping[int, Sequence[Tensor]]:
        """By step, the eigenvalues of each group."""


class Run(Protocol):
    """A run, such as `ddn_core.runs.RunRecord`."""

    @property
    def name(self) -> str:
        """Name of the run; runs with the same name are seeds."""

    @property
    def steps(self) -> Sequence[Step]:
        """The training steps."""

    @property
    def evaluations(self) -> Sequence[Evaluation]:
        """All evaluations, in order."""

    @property
    def epochs(self) -> Sequence[Evaluation]:
        """The evaluations at the end of each epoch."""

    @property
    def diverged_at(self) -> int | None:
        """Number of the step at which the run diverged; `None` if it did not."""


class HasChoice(Protocol):
    """Directions with their dampings, such as in a `TraceGroup`."""

    @property
    def choice(self) -> DampedChoice:
        """The directions that were kept, with their dampings."""


class CandidateResult(HasChoice, Protocol):
    """A candidate at a recorded step, such as `ddn_core.traces.Replayed`."""

    @property
    def name(self) -> str:
        """Name of the candidate."""

    @property
    def step(self) -> int:
        """Number of the recorded step."""

    @property
    def group(self) -> int:
        """Number of the group."""

    @property
    def expected_decrease(self) -> float:
        """Decrease of the loss on held-out halves of the samples."""

    @property
    def expected_spread(self) -> float:
        """Standard deviation of the expected decrease."""


class CandidateResults(Protocol):
    """Candidates on recorded curvature, such as `ddn_core.traces.Replay`."""

    @property
    def names(self) -> Sequence[str]:
        """Names of the candidates."""

    @property
    def results(self) -> Sequence[CandidateResult]:
        """A result for each recorded step, group and candidate, in this order."""

    def at(self, step: int, group: int) -> Sequence[CandidateResult]:
        """Return the results at a step in a group, one for each candidate."""

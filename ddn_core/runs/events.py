"""What happens in a run, as records."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class StepFigures:
    """What is told of a step; `None` where an optimizer of torch made it, or nothing is known.

    Norms and ranges are over all groups, and ranges over the finite dampings. `loss_after` is the loss of the same
    batch after the whole step, before any of it was taken back; known where a strategy or a rule requires it, and in
    steps that are recorded.
    """

    loss: float
    step_norm: float | None = None
    directions: int | None = None
    damping_min: float | None = None
    damping_max: float | None = None
    predicted_decrease: float | None = None
    taken: float | None = None
    loss_after: float | None = None


@dataclass(frozen=True)
class StepEvent(StepFigures):
    """One optimizer step."""

    step: int = field(kw_only=True)
    epoch: int = field(kw_only=True)
    lr: tuple[float, ...] = field(kw_only=True)
    seconds: float = field(kw_only=True)


@dataclass(frozen=True)
class EvaluationEvent:
    """An evaluation, at the end of an epoch or within it.

    Attributes:
        epoch: Number of the epoch, from 1.
        step: Number of steps that were made.
        train_loss: Mean of the losses of the batches since the last evaluation; its own, if there was no step since.
        test_loss: Loss of the test data.
        test_metrics: Means of the metrics over the test data.
        whole_train_loss: Loss of all training data as the model is now, if the config asks for it.
        seconds: Seconds since the run began, with evaluations.
        step_seconds: Seconds that steps took.
        ends_epoch: Whether the epoch has ended.
    """

    epoch: int
    step: int
    train_loss: float
    test_loss: float
    test_metrics: dict[str, float]
    whole_train_loss: float | None
    seconds: float
    step_seconds: float
    ends_epoch: bool


@dataclass
class History:
    """What a run leaves in memory for its picture and its summary.

    Attributes:
        steps: Every step.
        epochs: Every epoch.
        spectra: By step, the eigenvalues of each group, ascending: of the first step, and of the last of each epoch.
    """

    steps: list[StepEvent] = field(default_factory=list)
    epochs: list[EvaluationEvent] = field(default_factory=list)
    spectra: dict[int, list[Tensor]] = field(default_factory=dict)

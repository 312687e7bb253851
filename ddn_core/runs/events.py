"""Records of a run: its steps, its evaluations, and its history.

The types of the fields are the schema by which metrics are read back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ddn_core.foreign import Count, Finite, Measured

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class StepFigures:
    """Figures of a step; `None` where a figure is unknown, or an optimizer of torch made the step.

    Norms and ranges are over all groups, and ranges over the finite dampings. `loss_after` is the loss of the same
    batch after the whole step, before a part of the step was undone. It is known if a strategy or a step rule requires
    it, and for recorded steps. `gradient_norm` is known if a stop rule requires it.
    """

    loss: Measured
    step_norm: Finite | None = None
    directions: Count | None = None
    damping_min: Finite | None = None
    damping_max: Finite | None = None
    predicted_decrease: Finite | None = None
    taken: Finite | None = None
    loss_after: Finite | None = None
    clip: Finite | None = None
    gradient_norm: Finite | None = None


@dataclass(frozen=True)
class StepEvent(StepFigures):
    """One optimizer step."""

    step: Count = field(kw_only=True)
    epoch: Count = field(kw_only=True)
    lr: tuple[Finite, ...] = field(kw_only=True)
    seconds: Finite = field(kw_only=True)


@dataclass(frozen=True)
class EvaluationEvent:
    """An evaluation, at the end of an epoch or within it.

    Attributes:
        epoch: Number of the epoch, from 1.
        step: Number of steps before the evaluation.
        train_loss: Mean loss of the batches since the last evaluation. Without a step since then, the mean before it.
        test_loss: Loss of the test data.
        test_metrics: Means of the metrics over the test data.
        whole_train_loss: Loss of all training data with the current model; `None` unless the config asks for it.
        seconds: Seconds of training and evaluation since the run began.
        step_seconds: Seconds spent in steps.
        ends_epoch: Whether the evaluation is the one at the end of an epoch.
    """

    epoch: Count
    step: Count
    train_loss: Measured
    test_loss: Measured
    test_metrics: dict[str, Measured]
    whole_train_loss: Finite | None
    seconds: Finite
    step_seconds: Finite
    ends_epoch: bool


@dataclass(frozen=True)
class EndEvent:
    """End of a run that a rule stopped before its last epoch, or that diverged.

    Attributes:
        rule: The rule: the name of a setting of `[training.stop]`, or `divergence`.
        reason: The reason in words.
        step: Number of steps that the run made.
        diverged_at: Number, from 0, of the first step whose loss was too large; `None` if the run did not diverge.
        advice: Changes that may help a run that diverged, a sentence each.
    """

    rule: str
    reason: str
    step: Count
    diverged_at: Count | None = None
    advice: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return the end in words, `diverged at step 24: the loss is not finite`."""
        if self.diverged_at is not None:
            return f"diverged at step {self.diverged_at}: {self.reason}"
        return f"stopped after {self.step} steps: {self.reason}"


@dataclass
class History:
    """History of a run in memory, for its picture and its summary.

    Attributes:
        steps: All steps.
        epochs: The evaluations at the end of each epoch.
        spectra: By step, the eigenvalues of each group, ascending: at the first step, and at the last of each epoch.
    """

    steps: list[StepEvent] = field(default_factory=list)
    epochs: list[EvaluationEvent] = field(default_factory=list)
    spectra: dict[int, list[Tensor]] = field(default_factory=dict)

"""Moving the parameters of all groups, or none, and taking it back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ddn_core.config import StepConfig


class Plan(Protocol):
    """What the step of a group will do; nothing has been done yet."""

    @property
    def parameters(self) -> Sequence[Tensor]:
        """The group's parameters."""

    def targets(self, factor: float) -> Iterable[Tensor | None]:
        """Return the parameters after a part of the step, from what they are now; `None` for one that stays."""

    def commit(self) -> None:
        """Take over the state that belongs to the step: momentum and the like."""

    def abandon(self) -> None:
        """See to it that the state is that before the step."""


class Trial:
    """A step of all groups that can be taken back exactly."""

    def __init__(self, plans: Sequence[Plan], revocable: bool) -> None:
        """Copy the parameters, if the step may be taken back."""
        self._plans = plans
        self._before = [[p.detach().clone() for p in plan.parameters] for plan in plans] if revocable else []

    @torch.no_grad()
    def move(self, factor: float = 1.0) -> None:
        """Move the parameters by a part of the step, from where they were at first."""
        for plan in self._plans:
            for parameter, target in zip(plan.parameters, plan.targets(factor), strict=True):
                if target is not None:
                    parameter.copy_(target)

    @torch.no_grad()
    def undo(self) -> None:
        """Put the parameters back to the very numbers that they had."""
        for plan, values in zip(self._plans, self._before, strict=True):
            for parameter, value in zip(plan.parameters, values, strict=True):
                parameter.copy_(value)


@dataclass(frozen=True)
class Verdict:
    """What became of a step.

    Attributes:
        taken: Part of it that was kept; 0 if it was undone.
        whole: Loss after the whole step; `None` if it was not evaluated.
        loss: Loss where the parameters are now, if it was evaluated; otherwise that before the step.
    """

    taken: float
    whole: float | None
    loss: float


def settled(plans: Sequence[Plan], rules: StepConfig, before: float, evaluate: Callable[[], float] | None) -> Verdict:
    """Make a step of all groups, keep it, shorten it or undo it, and with it all state that belongs to it.

    Args:
        plans: What each group will do.
        rules: What is done with a step that raises the loss.
        before: Loss before the step.
        evaluate: Gives the loss of the same batch; `None` where nothing needs it.

    Raises:
        Exception: From `evaluate`; a step that may be undone has been.
    """
    revocable = rules.on_increase != "keep"
    verdict = Verdict(0.0, None, before)
    trial = None
    try:
        trial = Trial(plans, revocable)
        trial.move()
        verdict = Verdict(1.0, None, before)
        if evaluate is not None:
            whole = evaluate()
            verdict = Verdict(1.0, whole, whole)
            if revocable and not whole <= before:  # NaN is not
                verdict = _shortened(trial, rules, before, whole, evaluate)
    except BaseException:
        if revocable and trial is not None:
            trial.undo()
            verdict = Verdict(0.0, None, before)
        raise
    finally:
        for plan in plans:
            if verdict.taken:
                plan.commit()
            else:
                plan.abandon()
    return verdict


def _shortened(trial: Trial, rules: StepConfig, before: float, whole: float, evaluate: Callable[[], float]) -> Verdict:
    """Return what became of a step that raised the loss."""
    taken = 1.0
    for _ in range(rules.attempts if rules.on_increase == "shorten" else 0):
        taken *= rules.shrink
        trial.undo()
        trial.move(taken)
        if (loss := evaluate()) <= before:
            return Verdict(taken, whole, loss)
    trial.undo()
    return Verdict(0.0, whole, before)

"""The update of all groups' parameters, or of none: applied, and undone exactly where the rules ask for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ddn_core.config import StepConfig
from ddn_core.optim.planning import GroupUpdate

AVERAGED_ROUNDING = 1e-6
"""Relative increase of the loss of a batch that counts as rounding, where parameters are averaged."""


class PlannedUpdate(Protocol):
    """The update of a group that has been computed and not yet applied: neither parameters nor state have changed."""

    @property
    def parameters(self) -> Sequence[Tensor]:
        """The group's parameters."""

    def apply(self, factor: float) -> None:
        """Move the parameters by a part of the step from their current values."""

    def commit(self, taken: float) -> None:
        """Write the state that belongs to a part of the step, such as momentum."""


@dataclass(frozen=True)
class Verdict:
    """Fate of a step.

    Attributes:
        taken: Part of the step that was kept; 0 if it was undone.
        loss_after: Loss after the whole step; `None` if it was not evaluated.
        loss: Loss at the parameters as they are now, if it was evaluated; otherwise the loss before the step.
    """

    taken: float
    loss_after: float | None
    loss: float


@dataclass(frozen=True, eq=False)
class _Revocable:
    """The update of all groups, and the values to which it can be undone.

    Attributes:
        plans: The planned update of each group.
        start: Values of each group's parameters before the update.
        before: Loss before the step.
        limit: Largest loss after the whole step that counts as no increase.
    """

    plans: Sequence[PlannedUpdate]
    start: Sequence[Sequence[Tensor]]
    before: float
    limit: float

    def allows(self, length: float, loss: float) -> bool:
        """Return whether the loss after a part of the step counts as no increase; false for NaN."""
        return loss <= self.before + length * (self.limit - self.before)

    @torch.no_grad()
    def undo(self) -> None:
        """Restore the parameters bit by bit."""
        for plan, own in zip(self.plans, self.start, strict=True):
            for parameter, value in zip(plan.parameters, own, strict=True):
                parameter.copy_(value)

    def move(self, length: float) -> None:
        """Move the parameters by a part of the step from where they began."""
        self.undo()
        for plan in self.plans:
            plan.apply(length)


def largest_loss(groups: Sequence[Mapping[str, Any]], updates: Mapping[int, GroupUpdate], before: float) -> float:
    """Return the largest loss after a step that counts as no increase: the loss before it, in most cases.

    The parameters of a group with `averaging` follow an iterate that has not seen the batch, so that the model may
    predict that the loss of the batch increases. The step is then bad if the loss increases by more than twice that.

    Args:
        groups: The parameter groups.
        updates: The planned update of each group that makes damped Newton steps.
        before: Loss before the step.
    """
    if not any(groups[index]["averaging"] for index in updates):
        return before
    predicted = math.fsum(update.report.predicted_decrease for update in updates.values())
    return before + AVERAGED_ROUNDING * abs(before) + max(0.0, -2 * predicted)  # max ignores NaN


def settle(
    plans: Sequence[PlannedUpdate],
    rules: StepConfig,
    before: float,
    evaluate: Callable[[], float | None] | None,
    limit: float | None = None,
    start: Sequence[Sequence[Tensor]] | None = None,
) -> Verdict:
    """Apply the update of all groups, and keep, shorten or undo it; state is written for a step that is kept.

    Args:
        plans: The planned update of each group.
        rules: Rules for a step that raises the loss, or for the search of the best length.
        before: Loss before the step.
        evaluate: Returns the loss of the same batch, or `None` for a step that is kept as it is; `None` if nothing
            needs the loss.
        limit: Largest loss after a step that counts as no increase; the loss before the step by default.
        start: Copies of each group's parameters, if there are some already.

    Raises:
        Exception: From `evaluate`; a step that may be undone has been undone.
    """
    verdict, revocable = Verdict(0.0, None, before), None
    try:
        if rules.on_increase != "keep" and evaluate is not None:
            start = start or [[parameter.detach().clone() for parameter in plan.parameters] for plan in plans]
            revocable = _Revocable(plans, start, before, before if limit is None else limit)
        for plan in plans:
            plan.apply(1.0)
        verdict = Verdict(1.0, None, before)
        if evaluate is not None and (loss := evaluate()) is not None:
            verdict = Verdict(1.0, loss, loss)
            if revocable is not None and rules.on_increase == "search":
                verdict = _search(revocable, rules, loss, evaluate)
            elif revocable is not None and not revocable.allows(1.0, loss):
                verdict = _shorten(revocable, rules, loss, evaluate)
    except BaseException:
        if revocable is not None:
            revocable.undo()
            verdict = Verdict(0.0, None, before)
        raise
    finally:
        if verdict.taken:
            for plan in plans:
                plan.commit(verdict.taken)
    return verdict


def _shorten(step: _Revocable, rules: StepConfig, loss_after: float, evaluate: Callable[[], float | None]) -> Verdict:
    """Shorten a step that raised the loss as far as the rules allow, or undo it."""
    if rules.on_increase == "shorten":
        for length, loss in _shorter_steps(step, rules, evaluate):
            if step.allows(length, loss):
                return Verdict(length, loss_after, loss)
    step.undo()
    return Verdict(0.0, loss_after, step.before)


def _search(step: _Revocable, rules: StepConfig, loss_after: float, evaluate: Callable[[], float | None]) -> Verdict:
    """Evaluate the loss at all lengths, and keep the best of those that lower the loss, or undo the step.

    A loss that is no lower counts, too, where an increase is allowed.
    """
    losses = {1.0: loss_after, **dict(_shorter_steps(step, rules, evaluate))}
    good = {
        length: loss
        for length, loss in losses.items()
        if math.isfinite(loss) and loss != step.before and step.allows(length, loss)
    }
    if not good:
        step.undo()
        return Verdict(0.0, loss_after, step.before)
    best = min(good, key=good.__getitem__)  # of equal losses the first, which belongs to the longest step
    step.move(best)
    return Verdict(best, loss_after, good[best])


def _shorter_steps(
    step: _Revocable, rules: StepConfig, evaluate: Callable[[], float | None]
) -> Iterator[tuple[float, float]]:
    """Yield length and loss of ever shorter steps, with the parameters moved there; NaN stands for no loss."""
    length = 1.0
    for _ in range(rules.attempts):
        length *= rules.shrink
        step.move(length)
        loss = evaluate()
        yield length, math.nan if loss is None else loss

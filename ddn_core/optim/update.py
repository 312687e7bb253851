"""The update of all groups' parameters, or of none: applied, and undone exactly where the rules ask for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor

from ddn_core.config import StepConfig


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


def settle(
    plans: Sequence[PlannedUpdate],
    rules: StepConfig,
    before: float,
    evaluate: Callable[[], float | None] | None,
    limit: float | None = None,
) -> Verdict:
    """Apply the update of all groups, and keep, shorten or undo it; state is written for a step that is kept.

    Args:
        plans: The planned update of each group.
        rules: Rules for a step that raises the loss, or for the search of the best length.
        before: Loss before the step.
        evaluate: Returns the loss of the same batch, or `None` for a step that is kept as it is; `None` if nothing
            needs the loss.
        limit: Largest loss after a step that counts as no increase; the loss before the step by default.

    Raises:
        Exception: From `evaluate`; a step that may be undone has been undone.
    """
    is_revocable = rules.on_increase != "keep" and evaluate is not None
    limit = before if limit is None else limit
    verdict, before_update = Verdict(0.0, None, before), None
    try:
        if is_revocable:
            before_update = [[p.detach().clone() for p in plan.parameters] for plan in plans]
        for plan in plans:
            plan.apply(1.0)
        verdict = Verdict(1.0, None, before)
        if evaluate is not None:
            loss = evaluate()
            if loss is None:
                return verdict
            verdict = Verdict(1.0, loss, loss)
            if before_update is not None and (rules.on_increase == "search" or not loss <= limit):  # false for NaN
                choose = _search if rules.on_increase == "search" else _shorten
                tries = _shorter_steps(plans, before_update, rules, cast("Callable[[], float]", evaluate))
                verdict = choose(plans, before_update, rules, before, limit, loss, tries)
    except BaseException:
        if before_update is not None:
            _restore(plans, before_update)
            verdict = Verdict(0.0, None, before)
        raise
    finally:
        if verdict.taken:
            for plan in plans:
                plan.commit(verdict.taken)
    return verdict


def _shorten(
    plans: Sequence[PlannedUpdate],
    before_update: Sequence[Sequence[Tensor]],
    rules: StepConfig,
    before: float,
    limit: float,
    loss_after: float,
    tries: Iterator[tuple[float, float]],
) -> Verdict:
    """Shorten a step that raised the loss as far as the rules allow, or undo it."""
    if rules.on_increase == "shorten":
        for length, loss in tries:
            if loss <= before + length * (limit - before):
                return Verdict(length, loss_after, loss)
    _restore(plans, before_update)
    return Verdict(0.0, loss_after, before)


def _search(
    plans: Sequence[PlannedUpdate],
    before_update: Sequence[Sequence[Tensor]],
    rules: StepConfig,
    before: float,
    limit: float,
    loss_after: float,
    tries: Iterator[tuple[float, float]],
) -> Verdict:
    """Evaluate the loss at all lengths, and keep the best of those that lower the loss, or undo the step."""
    losses = {1.0: loss_after, **dict(tries)}
    good = {
        length: loss
        for length, loss in losses.items()
        if math.isfinite(loss) and (loss < before or before < loss <= before + length * (limit - before))
    }
    _restore(plans, before_update)
    if not good:
        return Verdict(0.0, loss_after, before)
    best = min(good, key=good.__getitem__)  # of equal losses the first, which belongs to the longest step
    for plan in plans:
        plan.apply(best)
    return Verdict(best, loss_after, good[best])


def _shorter_steps(
    plans: Sequence[PlannedUpdate],
    before_update: Sequence[Sequence[Tensor]],
    rules: StepConfig,
    evaluate: Callable[[], float],
) -> Iterator[tuple[float, float]]:
    """Yield length and loss of ever shorter steps, with the parameters moved there."""
    length = 1.0
    for _ in range(rules.attempts):
        length *= rules.shrink
        _restore(plans, before_update)
        for plan in plans:
            plan.apply(length)
        yield length, evaluate()


@torch.no_grad()
def _restore(plans: Sequence[PlannedUpdate], values: Sequence[Sequence[Tensor]]) -> None:
    """Restore the parameters bit by bit."""
    for plan, own in zip(plans, values, strict=True):
        for parameter, value in zip(plan.parameters, own, strict=True):
            parameter.copy_(value)

"""The damped Newton step of a group, from a pass or along directions of an earlier one, before momentum and clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ddn_core.engine import (
    Capture,
    Choice,
    Context,
    Directions,
    GroupMemo,
    GroupStep,
    Pull,
    Spectral,
    StageClock,
    damped_newton_step,
    group_directions,
)
from ddn_core.errors import CurvatureError
from ddn_core.optim.reuse import HeldDirections

PREVIOUS = "previous_step"
"""Key of a parameter's state: its part of the previous step, that memory draws to."""


@dataclass(frozen=True, eq=False)
class Passes:
    """What the backward passes gave: for the directions, and for the derivatives along them if that is another."""

    directions: Capture
    derivatives: Capture | None
    _memos: dict[int, GroupMemo] = field(default_factory=dict)

    @property
    def measured_elsewhere(self) -> bool:
        """Whether curvatures are of other samples than the directions, which are no eigenvectors of them then."""
        one = self.directions
        return self.derivatives is not None or tuple(one.lambdas) != tuple(one.ggn)

    def memo_of(self, group: int, parameters: Sequence[Tensor]) -> GroupMemo:
        """Return what the tries of a step share of a group."""
        if group not in self._memos:
            self._memos[group] = GroupMemo.of(self.directions, parameters)
        return self._memos[group]

    @property
    def loss(self) -> float:
        """Loss of the batch that gradients are of."""
        return (self.derivatives or self.directions).loss


@dataclass(frozen=True, eq=False)
class Raw:
    """A damped Newton step, before momentum and clips.

    Attributes:
        moves: The step, in the shapes of the parameters.
        told: What is told of it along its directions.
        held: Its directions, if they are to be used again.
        step: What the engine gave; `None` where directions were reused.
        reached: For each parameter, whether the loss reaches it.
    """

    moves: tuple[Tensor, ...]
    told: Spectral
    held: HeldDirections | None
    step: GroupStep | None
    reached: tuple[bool, ...]


def pull_of(group: Mapping[str, Any], state: Mapping[Tensor, Any]) -> Pull | None:
    """Return weight decay and memory of a group, if it has any."""
    decay, memory = float(group["weight_decay"]), float(group["memory"])
    previous = [state[p].get(PREVIOUS) if p in state else None for p in group["params"]] if memory else []
    anchor = None
    if any(vector is not None for vector in previous):
        anchor = tuple(
            torch.zeros_like(p, requires_grad=False) if vector is None else memory * vector
            for p, vector in zip(group["params"], previous, strict=True)
        )
    complement = bool(group["include_complement"])
    return Pull(decay, tuple(group["params"]), anchor, complement) if decay or anchor or complement else None


def all_directions(
    passes: Passes, group: Mapping[str, Any], occasion: Context, leading: int | None, state: Mapping[Tensor, Any]
) -> Directions:
    """Return the directions that a group's criterion would be given, or the leading ones of them."""
    pull = pull_of(group, state)
    return group_directions(
        passes.directions, group["params"], occasion, lambda context: leading, passes.derivatives, pull
    )


def fresh_step(
    passes: Passes,
    group: Mapping[str, Any],
    choice: Choice,
    occasion: Context,
    pull: Pull | None,
    clock: StageClock,
) -> Raw:
    """Return the step along directions of this pass."""
    params, every = group["params"], int(group["every"])
    if every > 1:
        choice = replace(choice, uniform_damping=lambda context: None)  # directions are wanted, not the step alone
    memo = passes.memo_of(occasion.group, params)
    step = damped_newton_step(passes.directions, params, choice, occasion, passes.derivatives, pull, clock, memo)
    with clock.stage("step"), torch.no_grad():
        moves = step.step()
        held = HeldDirections.of(step.directions) if every > 1 else None
    reached = passes.directions.reached
    return Raw(moves, step.spectral, held, step, tuple(id(parameter) in reached for parameter in params))


def reused_step(held: HeldDirections, group: Mapping[str, Any], pull: Pull | None) -> Raw:
    """Return the step along directions of an earlier pass, and the gradient that the parameters hold."""
    gradients = [parameter.grad for parameter in group["params"]]
    if all(gradient is None for gradient in gradients):
        raise CurvatureError(
            "directions of an earlier step are reused, but there is no gradient to go along them. Call step() before "
            "zero_grad()."
        )
    with torch.no_grad():
        moves, told = held.step(gradients, pull)
    return Raw(moves, told, held.older(), None, tuple(gradient is not None for gradient in gradients))

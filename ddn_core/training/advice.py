"""Advice on a run that diverged, from the figures of its steps."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from itertools import pairwise

from ddn_core.config import Config
from ddn_core.runs.events import StepEvent

_BEFORE = 3
"""Number of steps before the first loss that is too large: they raised it."""


def advice(steps: Sequence[StepEvent], diverged_at: int, config: Config) -> tuple[str, ...]:
    """Return changes of the config that may help, a sentence each, with the figures that speak for them.

    Args:
        steps: The steps of the run.
        diverged_at: Number of the first step whose loss was too large.
        config: The config of the run.
    """
    if config.optimizer is not None:
        return (_lower_rate("optimizer", config.optimizer.lr),)
    found = [*_model(steps, diverged_at), *_length(steps, diverged_at, config), *_damping(steps, diverged_at, config)]
    if config.step.on_increase == "keep":
        found.append("Shorten a step that raises the loss: --set 'step.on_increase=\"shorten\"'.")
    if config.groups:
        found.append(_lower_rate("groups.*", max(group.lr for group in config.groups)))
    return tuple(found)


def _before(steps: Sequence[StepEvent], diverged_at: int) -> list[StepEvent]:
    """Return the steps that raised the loss."""
    return [step for step in steps if diverged_at - _BEFORE <= step.step < diverged_at and step.taken]


def _model(steps: Sequence[StepEvent], diverged_at: int) -> list[str]:
    """Return a sentence about the predicted and the actual decrease of the step that raised the loss the most.

    If the loss after a step is unknown, the loss of the next batch takes its place.
    """
    following = {one.step: other.loss for one, other in pairwise(steps)}
    rises = [
        (after - one.loss, one)
        for one in _before(steps, diverged_at)
        if (after := following.get(one.step, math.inf) if one.loss_after is None else one.loss_after) > one.loss
    ]
    rise, step = max(rises, key=lambda pair: pair[0], default=(0.0, None))
    if step is None or step.predicted_decrease is None or not math.isfinite(step.predicted_decrease):
        return []
    actual = f"rose by {rise:.3g}" if math.isfinite(rise) else "was not finite after it"
    return [
        f"In step {step.step}, the quadratic model predicted a decrease of {step.predicted_decrease:.3g}, and the loss "
        f"{actual}: the step was longer than the model holds."
    ]


_LIMITS = ("max_step_norm", "max_relative_norm", "max_kl")
"""Settings of a group that limit the length of its steps."""


def _length(steps: Sequence[StepEvent], diverged_at: int, config: Config) -> list[str]:
    """Return a sentence about the lengths of the steps, and about their limits."""
    norms = {
        one.step: one.step_norm
        for one in steps
        if one.step < diverged_at and one.taken and one.step_norm and math.isfinite(one.step_norm)
    }
    last = [norm for step, norm in norms.items() if step >= diverged_at - _BEFORE]
    if not last:
        return []
    limits = [name for name in _LIMITS if any(getattr(group, name) is not None for group in config.groups)]
    if limits:
        clips = [one.clip for one in _before(steps, diverged_at) if one.clip is not None]
        part = min(clips, default=1.0)
        effect = f"shortened steps to {part:.2g} of their length" if part < 1 else "shortened no step"
        return [f"The limit {effect}, and the norm was up to {max(last):.3g}: lower {' or '.join(limits)}."]
    earlier = [norm for step, norm in norms.items() if step < diverged_at - _BEFORE]
    bound = statistics.median(earlier) if len(earlier) >= _BEFORE else min(norms.values())
    grown = f"The norm of the steps rose from {bound:.3g} to {max(last):.3g}. " if bound < max(last) else ""
    return [f"{grown}Limit it: --set 'groups.*.max_step_norm={min(bound, max(last)):.2g}'."]


def _damping(steps: Sequence[StepEvent], diverged_at: int, config: Config) -> list[str]:
    """Return a sentence about the dampings."""
    before = _before(steps, diverged_at)
    lows = [step.damping_min for step in before if step.damping_min is not None]
    highs = [step.damping_max for step in before if step.damping_max is not None]
    if not lows or not highs:
        return []
    low, high = min(lows), max(highs)
    found = f"Dampings were {low:.3g}" if low == high else f"Dampings were from {low:.3g} to {high:.3g}"
    if all(getattr(type(group.damping), "kind", None) == "constant" for group in config.groups):
        return [f"{found}. Raise them: --set 'groups.*.damping.value={10 * high:.2g}'."]
    return [f'{found}. Raise the small ones: damping = {{ kind = "clamp", lowest = {high:.2g}, of = {{ ... }} }}.']


def _lower_rate(place: str, rate: float) -> str:
    return f"Lower the learning rate, which was {rate:g}: --set '{place}.lr={rate / 10:.2g}'."

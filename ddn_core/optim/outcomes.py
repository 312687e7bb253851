"""Outcomes of a step, which strategies observe: the loss after it, and figures of each group."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ddn_core.config import StepConfig
from ddn_core.engine import Outcome, TensorVersions
from ddn_core.errors import StrategyError
from ddn_core.optim.parameters import is_fallback
from ddn_core.optim.report import StepReport
from ddn_core.plugins.resolve import in_group
from ddn_core.plugins.strategy import Criterion, Damping

FAMILIES = ("criterion", "damping")
"""The keys of a parameter group that hold strategies."""


def strategies_of(group: Mapping[str, Any]) -> list[Criterion | Damping]:
    """Return the strategies of a group; none if an optimizer of torch updates it."""
    return [] if is_fallback(group) else [group[family] for family in FAMILIES]


def is_attentive(group: Mapping[str, Any]) -> bool:
    """Return whether a strategy of the group observes the outcome of a step."""
    return not all(strategy.ignores_outcomes() for strategy in strategies_of(group))


def required_loss(groups: Sequence[Mapping[str, Any]], on_increase: str) -> str:
    """Return the name, for messages, of a strategy or rule that needs the loss after the step; `""` if none does."""
    for group in groups:
        for strategy in strategies_of(group):
            if "loss_after" in strategy.all_requirements():
                return strategy.label()
    return "" if on_increase == "keep" else f"step.on_increase = {on_increase!r}"


def requires_closure(groups: Sequence[Mapping[str, Any]], rules: StepConfig) -> bool:
    """Return whether a step needs a closure, since a strategy or a rule requires the loss after it."""
    return bool(required_loss(groups, "keep" if rules.without_closure == "keep" else rules.on_increase))


def uses_loss(groups: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether a strategy uses the loss after the step if it is available."""
    return any("loss_after" in own.all_accepted() for group in groups for own in strategies_of(group))


def outcomes_of(
    attentive: Sequence[int],
    reports: Mapping[int, StepReport],
    step: int,
    loss_before: float,
    loss_after: float | None,
) -> dict[int, Outcome]:
    """Return the outcome of each group whose strategies observe it.

    Args:
        attentive: The numbers of these groups.
        reports: Report of the step, by group.
        step: Number of steps before this one.
        loss_before: Loss at which the step was computed.
        loss_after: Loss after the whole step, if it was evaluated.
    """
    if not attentive:
        return {}  # saves the transfers from the device
    predicted = {index: report.predicted_decrease for index, report in reports.items()}
    total = math.fsum(predicted.values())
    return {
        index: Outcome(
            step=step,
            lr=reports[index].lr * reports[index].clip * reports[index].share,
            loss_before=loss_before,
            loss_after=loss_after,
            predicted_decrease=predicted[index],
            total_predicted_decrease=total,
            step_norm=reports[index].length,
            directions=reports[index].directions,
            taken=reports[index].taken,
            displacement_change=reports[index].displacement_change,
            damping_factor=reports[index].damping_factor,
        )
        for index in attentive
    }


@torch.no_grad()  # which also takes back a mode that a strategy leaves behind
def notify(
    groups: Sequence[Mapping[str, Any]], outcomes: Mapping[int, Outcome], reports: Mapping[int, StepReport]
) -> None:
    """Let the strategies observe the outcome of their group.

    Args:
        groups: The parameter groups.
        outcomes: Outcome of the step, by group.
        reports: Report of the step, by group, if there was one.

    Raises:
        StrategyError: A strategy raised, or changed a tensor of the report.
    """
    for index, outcome in outcomes.items():
        versions = reports[index].versions() if index in reports else TensorVersions()
        for strategy in strategies_of(groups[index]):
            where = f"group {index}, after the step"
            in_group(strategy.notify, where)(outcome)
            if (name := versions.changed()) is not None:
                raise StrategyError(
                    f"{where}: {strategy.label()}: `observe` changed `{name}` of the directions in place, which the "
                    f"report of the step shows. Let the strategy keep a copy: `directions.{name}.clone()`."
                )

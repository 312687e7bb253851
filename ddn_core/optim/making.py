"""How a step is made: plans of all groups, a trial, a verdict, and who is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch.optim import Optimizer

from ddn_core.config import StepConfig
from ddn_core.engine import Context, Outcome
from ddn_core.errors import ArgumentError
from ddn_core.optim.fallback import FallbackPlan
from ddn_core.optim.outcomes import evaluated, is_attentive, outcomes_of, required_loss, tell
from ddn_core.optim.parameters import is_fallback
from ddn_core.optim.passes import CurvaturePasses
from ddn_core.optim.planning import GroupPlan, plan_group
from ddn_core.optim.raw import Passes
from ddn_core.optim.report import StepReport
from ddn_core.optim.reuse import HeldDirections
from ddn_core.optim.trial import Plan, Verdict, settled
from ddn_core.plugins.resolve import group_choice


class StepMaker(Optimizer):
    """An optimizer, as far as it makes steps of passes that are there; whoever inherits it sees to all else.

    Attributes:
        last_step: A report for each group of what the last step did.
        full_report: Whether reports have what takes extra computation.
        skipped_steps: Number of steps not taken since loss or step was not finite.
        undone_steps: Number of steps taken back since they raised the loss.
    """

    last_step: tuple[StepReport, ...]
    full_report: bool
    skipped_steps: int
    undone_steps: int
    _rules: StepConfig
    _passes: CurvaturePasses
    _step_count: int
    _outcomes: dict[int, Outcome]
    _held: dict[int, HeldDirections]

    def _step(self, passes: Passes, closure: Callable[[], Any] | None) -> float:
        """Make the step; one that raises the loss is dealt with by the rules."""
        needed = required_loss(self.param_groups, self._rules.on_increase)
        if needed and closure is None:
            raise ArgumentError(f"{needed} requires the loss after the step: call step(closure).")
        rule, step = self._rules.on_increase, self._step_count
        evaluate = partial(evaluated, closure, self.param_groups, rule) if needed and closure else None
        tries = 1 + (self._rules.attempts if rule == "damp" else 0)
        while tries:
            tries -= 1
            plans = self._plans(passes)
            own = {index: plan for index, plan in plans.items() if isinstance(plan, GroupPlan)}
            try:
                verdict = settled(list(plans.values()), self._rules, passes.loss, evaluate)
            except BaseException:
                if rule == "keep":
                    self._end(own)  # the step has been made
                raise
            if verdict.taken or not any(plan.report.refreshed for plan in own.values()):
                tries = 0  # dampings of directions that are reused would be the same again
            if not tries:
                self._end(own)
                self.undone_steps += not verdict.taken
            self._note(own, verdict, passes.loss, step)
        return verdict.loss

    def _end(self, plans: Mapping[int, GroupPlan]) -> None:
        """Let go of the passes, and count the step."""
        self._passes.clear()
        self._held = {index: plan.held for index, plan in plans.items() if plan.held is not None}
        self._step_count += 1

    def _note(self, plans: Mapping[int, GroupPlan], verdict: Verdict, before: float, step: int) -> None:
        """Tell what a try did, to the user and to the strategies."""
        self.last_step = tuple(plan.report.after(verdict.taken) for plan in plans.values())
        reports = dict(zip(plans, self.last_step, strict=True))
        found = outcomes_of(self.param_groups, reports, step, before, verdict.whole)
        if found:
            self._outcomes = found
            tell(self.param_groups, found)

    def _plans(self, passes: Passes) -> dict[int, Plan]:
        """Return what each group will do."""
        plans: dict[int, Plan] = {}
        predict = any(is_attentive(group) for group in self.param_groups)
        try:
            for index, group in enumerate(self.param_groups):
                if is_fallback(group):
                    plans[index] = FallbackPlan(group, self.state, f"group {index}")
                    continue
                choice = group_choice(group["criterion"], group["damping"], f"group {index}")
                held = None if self.refreshes(index) else self._held[index]
                plans[index] = plan_group(
                    passes, group, choice, self._occasion(index), held, self.state, self.full_report, predict
                )
        except BaseException:
            for plan in plans.values():
                plan.abandon()
            raise
        return plans

    def _occasion(self, index: int) -> Context:
        """Return the step, and what a group's last one did."""
        return Context(self._step_count, index, float(self.param_groups[index]["lr"]), self._outcomes.get(index))

    @property
    def step_count(self) -> int:
        """Number of steps that were made."""
        return self._step_count

    def refreshes(self, index: int) -> bool:
        """Return whether a group's directions are computed in the next step, rather than reused (`every`)."""
        return index not in self._held or self._held[index].age >= int(self.param_groups[index]["every"])

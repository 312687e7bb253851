"""One step of all groups: planned, applied, kept or undone, reported; with the rule `damp`, tried again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from torch import Tensor

from ddn_core.config import StepConfig
from ddn_core.errors import ArgumentError
from ddn_core.optim.draws import Draws
from ddn_core.optim.evaluation import ClosureLoss
from ddn_core.optim.fallback import FallbackUpdate
from ddn_core.optim.going_back import remember
from ddn_core.optim.outcomes import (
    is_attentive,
    notify,
    outcomes_of,
    required_loss,
    requires_closure,
    uses_loss,
)
from ddn_core.optim.parameters import is_fallback
from ddn_core.optim.passes import CurvaturePasses, StepCaptures
from ddn_core.optim.planning import GroupUpdate, plan_group
from ddn_core.optim.report import StepReport
from ddn_core.optim.scaling import ScaledStep
from ddn_core.optim.state import Progress
from ddn_core.optim.update import PlannedUpdate, Verdict, largest_loss, settle
from ddn_core.plugins.resolve import group_choice

Evaluation = Callable[[], float | None]


@dataclass(frozen=True, eq=False)
class StepLoop:
    """The tries of one step; there is a second one only with the rule `damp`, after a try that was undone.

    Attributes:
        groups: The parameter groups.
        state: The optimizer's state by parameter.
        rules: Rules for a step that raises the loss, or is not finite.
        passes: The passes since the last step, which are dropped once the step has been made.
        progress: Values that change from step to step.
        full_report: Whether reports have the figures that take extra computation.
        publish: Called with the reports of each try, before the strategies observe its outcome.
        scaled: The step that a gradient scaler asks for; `None` without a scaler.
    """

    groups: Sequence[dict[str, Any]]
    state: MutableMapping[Tensor, Any]
    rules: StepConfig
    passes: CurvaturePasses
    progress: Progress
    full_report: bool
    publish: Callable[[tuple[StepReport, ...]], None]
    scaled: ScaledStep | None = None

    def run(self, closure: Callable[[], Any] | None, draws: Draws | None = None) -> float:
        """Make the step, and return the loss at the parameters after it, or before it if that was not evaluated.

        Args:
            closure: Returns the loss of the batch; called only if a strategy or a rule needs it.
            draws: State of the random generators from which the loss before the step was computed, if it is known.

        Raises:
            Exception: As in `DirectionalDampedNewton.step`.
        """
        captures, step = self.passes.result(self.scaled), self.progress.step_count
        is_kept = closure is None and self.rules.without_closure == "keep"
        rule = "keep" if is_kept else self.rules.on_increase
        needed = required_loss(self.groups, rule)
        if needed and closure is None:
            raise ArgumentError(f"{needed} requires the loss after the step. Call step(closure).")
        evaluate = None
        if closure is not None and (needed or uses_loss(self.groups)):
            is_required, fate = requires_closure(self.groups, self.rules), "made" if rule == "keep" else "undone"
            evaluate = partial(self._evaluate, ClosureLoss(closure, self.groups, draws, is_required, fate))
        tries = 1 + (self.rules.attempts if rule == "damp" else 0)
        while True:
            tries -= 1
            updates = self._planned(captures, rule)
            plans = {index: update for index, update in updates.items() if isinstance(update, GroupUpdate)}
            verdict = self._settled(updates, plans, captures.loss, evaluate, rule)
            is_fresh = any(plan.report.refreshed for plan in plans.values())  # reused directions keep their dampings
            is_over = bool(verdict.taken) or not tries or not is_fresh
            if is_over:
                self._finish(plans)
                if not verdict.taken:
                    self.progress.undone_steps += 1
                    for plan in plans.values():
                        plan.abandon()
            else:
                self.passes.restored()
            self._record(plans, verdict, captures.loss, step)
            if is_over:
                return verdict.loss

    def _evaluate(self, loss: ClosureLoss) -> float | None:
        """Return the loss of the batch, without curvature; `None` if the closure returns none, and may do so."""
        with self.passes.paused():
            return loss()

    @cached_property
    def _attentive(self) -> list[int]:
        """Groups of which a strategy observes the outcome of the step."""
        return [index for index, group in enumerate(self.groups) if is_attentive(group)]

    def _planned(self, captures: StepCaptures, rule: str) -> dict[int, PlannedUpdate]:
        """Return the planned update of each group, for a rule about steps that raise the loss."""
        updates: dict[int, PlannedUpdate] = {}
        is_judged = rule != "keep" and any(group.get("averaging") for group in self.groups)
        predict = is_judged or bool(self._attentive)
        for index, group in enumerate(self.groups):
            where = f"group {index}"
            if is_fallback(group):
                updates[index] = FallbackUpdate(group, captures.gradients(group["params"]), self.state, where)
                continue
            choice = group_choice(group["criterion"], group["damping"], where)
            context, held = self.progress.context(index, group), self.progress.reused(index, group)
            own = captures.of_group(index, group) if held is None else captures
            updates[index] = plan_group(own, group, choice, context, held, self.state, self.full_report, predict)
        return updates

    def _settled(
        self,
        updates: Mapping[int, PlannedUpdate],
        plans: Mapping[int, GroupUpdate],
        before: float,
        evaluate: Evaluation | None,
        rule: str,
    ) -> Verdict:
        """Apply the updates of all groups, and keep, shorten or undo them.

        Args:
            updates: The planned update of each group.
            plans: Those of damped Newton steps.
            before: Loss before the step.
            evaluate: Returns the loss of the batch; `None` if nothing needs it.
            rule: Rule for a step that raises the loss.
        """
        start = None
        if self.rules.on_nonfinite == "back":  # not before: a plan that is not finite goes back to the last copy
            start = remember(self.groups, self.progress)
        try:
            limit = largest_loss(self.groups, plans, before)
            return settle(list(updates.values()), self.rules, before, evaluate, limit, start)
        except BaseException:
            if rule == "keep":
                self._finish(plans)  # the step has been made
            elif evaluate is not None:
                self.passes.restored()  # the step has been undone, and can be made again
            raise

    def _finish(self, plans: Mapping[int, GroupUpdate]) -> None:
        """Drop the passes, keep the directions that later steps reuse, and count the step."""
        self.passes.clear()
        self.progress.held = {index: plan.held for index, plan in plans.items() if plan.held is not None}
        self.progress.step_count += 1

    def _record(self, plans: Mapping[int, GroupUpdate], verdict: Verdict, loss_before: float, step: int) -> None:
        """Report a try to the user, and its outcome to the strategies."""
        reports = {index: plan.report.after(verdict.taken) for index, plan in plans.items()}
        self.publish(tuple(reports.values()))
        if found := outcomes_of(self._attentive, reports, step, loss_before, verdict.loss_after):
            self.progress.outcomes = found
            notify(self.groups, found, reports)

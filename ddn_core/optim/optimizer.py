"""`DirectionalDampedNewton`: directionally damped Newton steps as a `torch.optim.Optimizer`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Self, cast

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from ddn_core.config import Config, CurvatureConfig, FallbackTable, FirstOrder, GroupConfig, StepConfig
from ddn_core.config.presets import PresetName, chosen_tables, rules_with_defaults, with_defaults
from ddn_core.engine import Context, Directions, WantedParameter, group_directions
from ddn_core.errors import ArgumentError, CurvatureError, NonFiniteError
from ddn_core.generators import DeviceGenerators
from ddn_core.optim.divergence import DivergenceWatch
from ddn_core.optim.fallback import FallbackUpdate, fallback_group
from ddn_core.optim.outcomes import (
    evaluate_loss,
    is_attentive,
    notify,
    outcomes_of,
    required_loss,
    uses_loss,
)
from ddn_core.optim.parameters import (
    GROUP_DEFAULTS,
    check_config,
    group_parameters,
    is_fallback,
    named,
    own_group,
    wanted_parameters,
)
from ddn_core.optim.passes import CurvaturePasses, Purpose, StepCaptures
from ddn_core.optim.planning import GroupUpdate, drop, plan_group, terms_of
from ddn_core.optim.report import StepReport
from ddn_core.optim.state import Progress, loaded_state, saved_state
from ddn_core.optim.update import PlannedUpdate, Verdict, largest_loss, settle
from ddn_core.plugins.resolve import group_choice, validated


class DirectionalDampedNewton(Optimizer):
    """Optimizer whose step is the directionally damped Newton step of each parameter group.

    For a group with generalized Gauss-Newton matrix `G = V Vᵀ`, the update is
    `θ ← θ + lr · Σ_k -γ̄_k / (λ̄_k + δ_k) e_k` over the directions k that the group's criterion chooses, with the
    dampings δ that its damping computes (Dangel, Tatzel, Hennig 2022, section 2).

    The model may be any model of PyTorch. `optimizer.backward(loss)` takes the place of `loss.backward()`; the backward
    pass may also be inside `with optimizer.curvature():`, or in a closure that `step(closure)` calls there.

    Example:
        >>> optimizer = DirectionalDampedNewton(model.named_parameters(), lr=1.0)
        >>> for X, y in loader:
        ...     optimizer.zero_grad()
        ...     loss = loss_function(model(X), y)
        ...     optimizer.backward(loss)
        ...     optimizer.step()

    Attributes:
        last_step: Report of the last step for each group; empty if there was no step, or it was skipped.
        full_report: Whether reports have the figures that take extra computation.
    """

    last_step: tuple[StepReport, ...]

    def __init__(
        self,
        params: Iterable[tuple[str, Parameter]] | Iterable[Parameter],
        groups: Config | Sequence[Mapping[str, Any] | GroupConfig] | None = None,
        lr: float = 1.0,
        *,
        preset: PresetName | None = None,
        curvature: CurvatureConfig | Mapping[str, Any] | None = None,
        step: StepConfig | Mapping[str, Any] | None = None,
        fallback: FirstOrder | Mapping[str, Any] | None = None,
        full_report: bool = False,
        **settings: Any,
    ) -> None:
        """Set the optimizer up.

        Args:
            params: The model's parameters, with names (`model.named_parameters()`) where groups name them by globs.
            groups: Tables with `"params"` (globs on parameter names, or parameters; a parameter belongs to the first
                group that matches it), `"criterion"`, `"damping"` (strategy objects, config tables, or functions with
                ViViT's signatures) and, optionally, the other settings of a config's group: `"lr"`, `"momentum"`,
                `"weight_decay"`, ...; or a loaded config. By default one group with all parameters, whose settings
                are those of a preset.
            lr: Factor on the step, for groups without their own.
            preset: Name of the preset: `"averaged"`, the default, or `"least-squares"`.
            curvature: Settings of the curvature, such as `{"kind": "ggn-mc", "mc_samples": 1, "seed": 0}`; by default
                those of the config or the preset, or the exact GGN.
            step: Rules for a step that raises the loss, or is not finite, such as `{"on_increase": "undo"}`; by default
                those of the config or the preset.
            fallback: Optimizer of torch for parameters outside of all groups, such as `{"kind": "sgd", "lr": 0.1}`.
            full_report: Whether `last_step` has the figures that take extra computation.
            **settings: Settings of the one group, in place of `groups`: `damping=0.1`, `criterion="all"`,
                `max_step_norm=1.0`, ... They change the group of the preset; a damping without a preset stands for a
                plain group instead, with all directions and the exact GGN.

        Raises:
            ArgumentError: Groups and other settings are both given; a parameter is in two groups or, though it is not
                frozen and there is no fallback, in none; a glob matches nothing.
            ConfigError: A criterion, damping, curvature, step or fallback table is wrong.
        """
        if isinstance(groups, Config):
            check_config(groups, lr)
            curvature, step = curvature or groups.curvature, step or groups.step
            fallback, groups = fallback or groups.fallback, groups.groups
        if groups is None:
            tables = chosen_tables(preset, settings)
            curvature = with_defaults(curvature, tables["curvature"])
            step = rules_with_defaults(step, tables["step"])
            groups = cast("Sequence[Mapping[str, Any]]", tables["groups"])
        elif preset is not None or settings:
            extra = "preset" if preset is not None else next(iter(settings))
            raise ArgumentError(f"groups and {extra} are both given. Write the settings of each group into its table.")
        self._settings = validated(CurvatureConfig, curvature or {}, "curvature")
        self._rules = validated(StepConfig, step or {}, "step")
        other = validated(FallbackTable, {"fallback": fallback}, "optimizer").fallback
        self._progress = Progress(DeviceGenerators(self._settings.seed))
        self.full_report = full_report
        self._connect()
        members, left = group_parameters(named(params), groups, other is not None)
        if other is not None and left:
            members.append(fallback_group(other, left))
        super().__init__(members, {**GROUP_DEFAULTS, "lr": lr})

    @classmethod
    def preset(
        cls, name: PresetName, params: Iterable[tuple[str, Parameter]] | Iterable[Parameter], **settings: Any
    ) -> Self:
        """Return an optimizer with the settings of a preset.

        Args:
            name: Name of the preset: `"averaged"` or `"least-squares"`.
            params: The model's parameters, with or without names.
            **settings: Further arguments of the optimizer, or settings of its group, which take precedence.
        """
        return cls(params, preset=name, **settings)

    def _connect(self) -> None:
        """Begin with an empty record of passes."""
        self._passes = CurvaturePasses(self._settings, self._progress.generators)
        self._watch = DivergenceWatch()
        self.last_step = ()

    def _wanted(self) -> dict[int, WantedParameter]:
        return wanted_parameters(self.param_groups, self.refreshes)

    def __getstate__(self) -> dict[str, Any]:
        """Return the contents of a copy or a pickle; passes that no step has used are left out."""
        own = ("_settings", "_rules", "_progress", "full_report")
        return {**super().__getstate__(), **{name: getattr(self, name) for name in own}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the contents of a copy or a pickle, or (called by torch) the groups of a loaded state."""
        super().__setstate__(state)
        if "_settings" in state:
            self._connect()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group with its own copies of criterion and damping.

        Raises:
            ArgumentError: A key is missing or unknown, the learning rate is no finite number or negative, or a
                parameter is in a group already.
            ConfigError: A value is no criterion or damping, or its table or another setting is wrong.
        """
        where = f"group {len(self.param_groups)}"
        if not is_fallback(param_group):
            param_group = own_group(param_group, where, self.defaults)
        try:
            super().add_param_group(param_group)
        except ValueError as error:
            raise ArgumentError(f"{where}: {error}") from error

    def backward(
        self, loss: Tensor, samples: int | None = None, *, purpose: Purpose = "all", retain_graph: bool = False
    ) -> None:
        """Compute gradients and curvature of a loss: the place of `loss.backward()`.

        The loss may come from any model. Calls before a step add up, as gradients do in torch: for micro-batches,
        multiply each loss by its share of the whole, and the step is that of the concatenated batch. Once the gradients
        have been cleared, by `zero_grad()`, the next call begins anew.

        Args:
            loss: Loss, a scalar: mean squared error, cross-entropy, or binary cross-entropy with logits, as a module or
                as a function, times a constant.
            samples: Number of samples in the batch. By default it is read from the model output: the length of its
                first axis, also if the output was flattened before the loss.
            purpose: Purpose of the pass: `"all"` of the step, its `"directions"`, or the `"derivatives"` along them.
            retain_graph: Whether the graph is kept for another backward pass.

        Raises:
            ArgumentError: `purpose` is unknown, or `samples` does not fit the output.
            CurvatureError: The loss is not supported; no gradient has been written. Or the gradients are not those of
                the loss alone.
            MemoryBudgetError: The curvature does not fit the memory budget.
            NonFiniteError: The loss is not finite, and such steps are not skipped.
        """
        try:
            self._passes.run(loss, purpose, None, self._wanted, samples, retain_graph=retain_graph)
        except NonFiniteError:
            if not self._can_skip:
                raise
            self._passes.fail(purpose)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients, as torch's optimizers do, and forget the passes that gave them.

        A pass for the directions alone is kept, since the pass for the derivatives follows it.
        """
        super().zero_grad(set_to_none)
        self._passes.discard()

    @contextmanager
    def curvature(self, purpose: Purpose = "all", *, accumulate: bool = False) -> Iterator[None]:
        """Return a context in which one backward pass gives the curvature for the next `step()`.

        For **micro-batches** use a block with `accumulate=True` for each, and multiply each loss by its share of the
        whole, as for accumulated gradients: the step is that of the concatenated batch.

        Curvature that is measured on the batch that chose the directions is biased upward (Tatzel et al. 2025, arXiv
        2410.14325). For **two batches**, use a block with `"directions"` for one and, after `zero_grad()`, one with
        `"derivatives"` for the other: directional gradients and curvatures are then the second batch's.

        Args:
            purpose: Purpose of the pass: `"all"` of the step, its `"directions"`, or the `"derivatives"` along them.
            accumulate: Whether the pass adds to earlier passes for the same purpose, rather than replaces them.

        Raises:
            ArgumentError: `purpose` is unknown.
            CurvatureError: From `backward()`, as in `optimizer.backward`.
            NonFiniteError: From `backward()`: the loss is not finite, and such steps are not skipped.
        """
        try:
            with self._passes.block(purpose, accumulate, self._wanted):
                yield
        except NonFiniteError:
            if not self._can_skip:
                raise
            self._passes.fail(purpose)

    def directions(self, group: int = 0, leading: int | None = None) -> Directions:
        """Return the directions among which a group's criterion chooses in the next `step()`.

        They are computed anew at each call, and calls do not change the step.

        Args:
            group: Number of the group.
            leading: Number of directions, those with the largest eigenvalues; by default all that are not numerically
                zero.

        Raises:
            ArgumentError: The group has no directions, since an optimizer of torch updates it.
            CurvatureError: There was no curvature pass since the last step, or the group reuses earlier directions.
            NonFiniteError: The loss is not finite.
        """
        if is_fallback(self.param_groups[group]):
            raise ArgumentError(f"group {group} has no directions, since an optimizer of torch updates it.")
        if not self.refreshes(group):
            raise CurvatureError(
                f"group {group} reuses the directions of an earlier step, so it has none of its own in this step."
            )
        if self._passes.failed:
            raise NonFiniteError("the loss is not finite.")
        captures, table = self._passes.result(), self.param_groups[group]
        terms, context = terms_of(table, self.state), self._context(group)
        return group_directions(
            captures.directions, table["params"], context, lambda context: leading, captures.derivatives, terms
        )

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move every group by `lr` times its damped Newton step; all groups move, or none.

        Args:
            closure: Returns the loss for the same batch; it may call `zero_grad()` and `backward()`, as torch's
                closures do. If there was no pass inside `with optimizer.curvature():` since the last step, the closure
                is called in such a block first, and has to call `backward()`. After the step it is called only if a
                strategy or the rule on steps that raise the loss needs the loss then; its changes to gradients are
                undone.

        Returns:
            Loss of the batch after the step if it was evaluated, otherwise before the step; NaN for a skipped step. If
            these losses diverge, the optimizer warns once, with a `DivergenceWarning`.

        Raises:
            CurvatureError: There was no curvature pass since the last step.
            NonFiniteError: A step is not finite; no parameter has changed.
            ArgumentError: The loss after the step is needed, and there is no closure.
            StrategyError: A criterion or damping raised, or returned an invalid value; no parameter has changed.
                Or a strategy raised in `observe`, after the step.
        """
        if closure is not None and self._passes.is_empty:
            with torch.enable_grad(), self.curvature():
                closure()
        try:
            if self._passes.failed:
                raise NonFiniteError("the loss is not finite.")
            loss = self._step(self._passes.result(), closure)
        except NonFiniteError:
            if not self._can_skip:
                raise
            if self._rules.on_nonfinite == "back":
                self._go_back()
            self._passes.clear()
            self._progress.skipped_steps += 1
            self.last_step = ()
            loss = float("nan")
        self._watch.warn(loss)
        return loss

    @property
    def _can_skip(self) -> bool:
        """True if a step that is not finite is no error: it is skipped, or there is a step to go back before."""
        rule = self._rules.on_nonfinite
        return rule == "skip" or (rule == "back" and bool(self._progress.before))

    @property
    def requires_closure(self) -> bool:
        """True if a step needs a closure, since a strategy or a rule requires the loss after it."""
        rule = "keep" if self._rules.without_closure == "keep" else self._rules.on_increase
        return bool(required_loss(self.param_groups, rule))

    @property
    def step_count(self) -> int:
        """Number of steps."""
        return self._progress.step_count

    @property
    def skipped_steps(self) -> int:
        """Number of steps that were skipped because the loss or the step was not finite."""
        return self._progress.skipped_steps

    @property
    def undone_steps(self) -> int:
        """Number of steps that were undone because they raised the loss."""
        return self._progress.undone_steps

    def refreshes(self, index: int) -> bool:
        """Return whether the next step computes a group's directions, rather than reuses earlier ones (`every`)."""
        held = self._progress.held.get(index)
        return held is None or held.age >= int(self.param_groups[index]["every"])

    def state_dict(self) -> dict[str, Any]:
        """Return torch's state, with each strategy's table and state, counters and random generators, as plain data."""
        return saved_state(super().state_dict(), self.param_groups, self._progress)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state that `state_dict` of an optimizer with the same groups and strategies returned.

        Raises:
            ArgumentError: The state belongs to another optimizer, or has other groups; nothing has been changed.
            StrategyError: A strategy differs from the one that the state was saved with; nothing has been changed.
        """
        plain, strategies, progress = loaded_state(state_dict, self.param_groups, self._progress)
        super().load_state_dict(plain)
        for group, own in zip(self.param_groups, strategies, strict=True):
            group.update(own)
        self._progress = progress
        self._connect()

    def _step(self, captures: StepCaptures, closure: Callable[[], Any] | None) -> float:
        """Plan, apply and record a step; the rules decide about a step that raises the loss."""
        rule, count = self._rules.on_increase, self.step_count
        if closure is None and self._rules.without_closure == "keep":
            rule = "keep"
        needed = required_loss(self.param_groups, rule)
        if needed and closure is None:
            raise ArgumentError(f"{needed} requires the loss after the step. Call step(closure).")
        is_evaluated = closure is not None and (bool(needed) or uses_loss(self.param_groups))
        evaluate = partial(self._evaluate, closure, rule) if is_evaluated and closure else None
        tries = 1 + (self._rules.attempts if rule == "damp" else 0)
        while tries:
            tries -= 1
            plans = self._plans(captures, rule)
            own = {index: plan for index, plan in plans.items() if isinstance(plan, GroupUpdate)}
            start = None
            if self._rules.on_nonfinite == "back":
                self._remember()  # not before, since a step that is not finite goes back to the one before
                start = [self._progress.before[index] for index in plans]
            try:
                limit = largest_loss(self.param_groups, own, captures.loss)
                verdict = settle(list(plans.values()), self._rules, captures.loss, evaluate, limit, start)
            except BaseException:
                if rule == "keep":
                    self._finish(own)  # the step has been made
                raise
            if verdict.taken or not any(plan.report.refreshed for plan in own.values()):
                tries = 0  # reused directions would get the same dampings again
            if not tries:
                self._finish(own)
                if not verdict.taken:
                    self._progress.undone_steps += 1
                    for plan in own.values():
                        plan.abandon()
            self._record(own, verdict, captures.loss, count)
        return verdict.loss

    @torch.no_grad()
    def _remember(self) -> None:
        """Keep a copy of all parameters, to which a later step may go back."""
        for index, group in enumerate(self.param_groups):
            if index not in self._progress.before:
                self._progress.before[index] = [torch.empty_like(own) for own in group["params"]]
            torch._foreach_copy_(self._progress.before[index], group["params"])

    @torch.no_grad()
    def _go_back(self) -> None:
        """Go back to the parameters before the last step, drop what is kept of steps, and notify the strategies."""
        before, self._progress.before, self._progress.held = self._progress.before, {}, {}
        for index, values in before.items():
            group = self.param_groups[index]
            torch._foreach_copy_(group["params"], values)
            drop(group["params"], self.state)
            if is_fallback(group):
                for parameter in group["params"]:
                    self.state.pop(parameter, None)
        outcomes = self._progress.outcomes
        found = {index: replace(outcome, taken=0.0, loss_after=math.nan) for index, outcome in outcomes.items()}
        self._progress.outcomes = found
        notify(self.param_groups, found)

    def _evaluate(self, closure: Callable[[], Any], rule: str) -> float | None:
        """Return the loss that a closure computes, without curvature; `None` if it returns none, and may do so."""
        with self._passes.paused():
            return evaluate_loss(closure, self.param_groups, rule, self.requires_closure)

    def _plans(self, captures: StepCaptures, rule: str) -> dict[int, PlannedUpdate]:
        """Return the planned update of each group, for a rule about steps that raise the loss."""
        plans: dict[int, PlannedUpdate] = {}
        is_judged = rule != "keep" and any(group.get("averaging") for group in self.param_groups)
        predict = is_judged or any(is_attentive(group) for group in self.param_groups)
        for index, group in enumerate(self.param_groups):
            where = f"group {index}"
            if is_fallback(group):
                plans[index] = FallbackUpdate(group, self.state, where)
                continue
            choice = group_choice(group["criterion"], group["damping"], where)
            held = None if self.refreshes(index) else self._progress.held[index]
            plans[index] = plan_group(
                captures, group, choice, self._context(index), held, self.state, self.full_report, predict
            )
        return plans

    def _context(self, index: int) -> Context:
        """Return step, group and learning rate, and the outcome of the group's last step."""
        lr = float(self.param_groups[index]["lr"])
        return Context(self.step_count, index, lr, self._progress.outcomes.get(index))

    def _finish(self, plans: Mapping[int, GroupUpdate]) -> None:
        """Drop the passes, keep the directions that later steps reuse, and count the step."""
        self._passes.clear()
        self._progress.held = {index: plan.held for index, plan in plans.items() if plan.held is not None}
        self._progress.step_count += 1

    def _record(self, plans: Mapping[int, GroupUpdate], verdict: Verdict, loss_before: float, count: int) -> None:
        """Report a try to the user, and its outcome to the strategies."""
        self.last_step = tuple(plan.report.after(verdict.taken) for plan in plans.values())
        reports = dict(zip(plans, self.last_step, strict=True))
        found = outcomes_of(self.param_groups, reports, count, loss_before, verdict.loss_after)
        if found:
            self._progress.outcomes = found
            notify(self.param_groups, found)

"""`DirectionalDampedNewton`: directionally damped Newton steps as a `torch.optim.Optimizer`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from backpack import backpack
from torch.nn import Parameter

from ddn_core.config import Config, CurvatureConfig, FallbackTable, FirstOrder, GroupConfig, StepConfig
from ddn_core.engine import Directions, Outcome
from ddn_core.errors import ArgumentError, CurvatureError, NonFiniteError
from ddn_core.generators import DeviceGenerators
from ddn_core.optim.fallback import fallback_group
from ddn_core.optim.making import StepMaker
from ddn_core.optim.parameters import (
    DEFAULT_GROUP,
    GROUP_DEFAULTS,
    check_config,
    group_parameters,
    is_fallback,
    named,
    own_group,
    wanted_parameters,
)
from ddn_core.optim.passes import CurvaturePasses, Part
from ddn_core.optim.raw import Passes, all_directions
from ddn_core.optim.reuse import HeldDirections
from ddn_core.optim.state import COUNTERS, LoadedState, saved_state
from ddn_core.plugins.resolve import validated


class DirectionalDampedNewton(StepMaker):
    """Optimizer whose step is the directionally damped Newton step of each parameter group.

    For a group with generalized Gauss-Newton matrix `G = V Vᵀ`, the update is
    `θ ← θ + lr · Σ_k -γ̄_k / (λ̄_k + δ_k) e_k` over the directions k that the group's criterion chooses, with the
    dampings δ that its damping gives (Dangel, Tatzel, Hennig 2022, section 2).

    Model and loss function must be extended with `backpack.extend`, and forward and backward pass happen inside
    `with optimizer.curvature():`, or in a closure that `step(closure)` calls there.

    Example:
        >>> optimizer = DirectionalDampedNewton(model.named_parameters(), lr=1.0)
        >>> for X, y in loader:
        ...     optimizer.zero_grad()
        ...     with optimizer.curvature():
        ...         loss = loss_function(model(X), y)
        ...         loss.backward()
        ...     optimizer.step()

    Attributes:
        last_step: A report for each group of what the last step did; empty where there was none, or it was skipped.
        full_report: Whether reports have what takes extra computation.
        skipped_steps: Number of steps not taken since loss or step was not finite.
        undone_steps: Number of steps taken back since they raised the loss.
    """

    def __init__(
        self,
        params: Iterable[tuple[str, Parameter]] | Iterable[Parameter],
        groups: Config | Sequence[Mapping[str, Any] | GroupConfig] | None = None,
        lr: float = 1.0,
        *,
        curvature: CurvatureConfig | Mapping[str, Any] | None = None,
        step: StepConfig | Mapping[str, Any] | None = None,
        fallback: FirstOrder | Mapping[str, Any] | None = None,
        full_report: bool = False,
    ) -> None:
        """Set the optimizer up.

        Args:
            params: The model's parameters, with names (`model.named_parameters()`) where groups name them by globs.
            groups: Tables with `"params"` (globs on parameter names, or parameters; a parameter belongs to the first
                group that names it), `"criterion"`, `"damping"` (strategy objects, config tables, or functions with
                ViViT's signatures) and, optionally, what a config's group has besides: `"lr"`, `"momentum"`,
                `"weight_decay"`, ...; or a loaded config. One group with all directions and damping 1 by default.
            lr: Factor on the step, for groups without their own.
            curvature: Which curvature to use, such as `{"kind": "ggn-mc", "mc_samples": 1, "seed": 0}`; by default that
                of the config, or the exact GGN.
            step: What is done with a step that raises the loss, or is not finite, such as `{"on_increase": "undo"}`.
            fallback: Optimizer of torch for parameters that no group takes, such as `{"kind": "sgd", "lr": 0.1}`.
            full_report: Whether `last_step` has what takes extra computation.

        Raises:
            ArgumentError: A parameter is in two groups or, though it is not frozen and there is no fallback, in none;
                a glob matches nothing.
            ConfigError: A criterion, damping, curvature, step or fallback table is wrong.
        """
        if isinstance(groups, Config):
            check_config(groups, lr)
            curvature, step = curvature or groups.curvature, step or groups.step
            fallback, groups = fallback or groups.fallback, groups.groups
        self._settings = validated(CurvatureConfig, curvature or {}, "curvature")
        self._rules = validated(StepConfig, step or {}, "step")
        other = validated(FallbackTable, {"fallback": fallback}, "optimizer").fallback
        self._generators = DeviceGenerators(self._settings.seed)
        self._step_count = self.skipped_steps = self.undone_steps = 0
        self._outcomes: dict[int, Outcome] = {}
        self._held: dict[int, HeldDirections] = {}
        self.full_report = full_report
        self._connect()
        tables, left = group_parameters(named(params), [DEFAULT_GROUP] if groups is None else groups, other is not None)
        if other is not None and left:
            tables.append(fallback_group(other, left))
        super().__init__(tables, {**GROUP_DEFAULTS, "lr": lr})

    def _connect(self) -> None:
        """Make the extension, with no pass to work on yet."""
        self._passes = CurvaturePasses()
        self.last_step = ()
        self._extension = self._passes.extension(
            lambda: wanted_parameters(self.param_groups, self.refreshes), self._settings, self._generators
        )

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy or a pickle consists of; a pass that was not used is left out."""
        own = ("_settings", "_rules", "_generators", "_outcomes", "_held", "full_report", *COUNTERS)
        return {**super().__getstate__(), **{name: getattr(self, name) for name in own}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over what a copy or a pickle consists of, or (from torch) the groups of a loaded state."""
        super().__setstate__(state)
        if "_settings" in state:
            self._connect()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; criterion and damping are made the group's own.

        Raises:
            ArgumentError: A key is missing or unknown, the learning rate is no finite number or negative, or a
                parameter is in a group already.
            ConfigError: A criterion or damping is none, or its table or another setting is wrong.
        """
        where = f"group {len(self.param_groups)}"
        if not is_fallback(param_group):
            param_group = own_group(param_group, where, self.defaults)
        try:
            super().add_param_group(param_group)
        except ValueError as error:
            raise ArgumentError(f"{where}: {error}") from error

    @contextmanager
    def curvature(self, part: Part = "all", *, accumulate: bool = False) -> Iterator[None]:
        """Return a context in which one backward pass gives the curvature for the next `step()`.

        For **micro-batches** use a block with `accumulate=True` for each, and multiply each loss by its share of the
        whole, as for accumulated gradients: the step is that of the concatenated batch.

        Curvature that is measured on the batch that chose the directions is biased upward (Tatzel et al. 2025, arXiv
        2410.14325). For **two batches**, use a block with `"directions"` for one and, after `zero_grad()`, one with
        `"derivatives"` for the other: directional gradients and curvatures are then the second batch's.

        Args:
            part: What the pass is for: `"all"` of the step, its `"directions"`, or its `"derivatives"` along them.
            accumulate: Whether the pass adds to those for the same part since the last step, rather than replaces them.

        Raises:
            ArgumentError: `part` is none of these.
            CurvatureError: From `backward()`: the model or the loss function is not extended, a layer is not
                supported, the loss is not finite (unless such steps are skipped). Gradients are then either untouched
                or whole.
        """
        try:
            with self._passes.block(part, accumulate), backpack(self._extension):
                yield
        except NonFiniteError:
            if self._rules.on_nonfinite == "error":
                raise
            self._passes.fail(part)

    def directions(self, group: int = 0, leading: int | None = None) -> Directions:
        """Return the directions that the next `step()` gives a group's criterion to choose from: to look at, or record.

        Computed anew at each call; the step is the same, whether they were looked at or not.

        Args:
            group: Number of the group.
            leading: How many are wanted, those with the largest eigenvalues; all that are not numerically zero if not.

        Raises:
            ArgumentError: The group has none: an optimizer of torch moves it.
            CurvatureError: There was no curvature pass since the last step, or its directions are reused.
            NonFiniteError: The loss is not finite.
        """
        if is_fallback(self.param_groups[group]):
            raise ArgumentError(f"group {group} has no directions: an optimizer of torch moves it.")
        if not self.refreshes(group):
            raise CurvatureError(f"group {group} reuses directions of an earlier step in this one.")
        if self._passes.failed:
            raise NonFiniteError("the loss is not finite.")
        return all_directions(
            Passes(*self._passes.result()), self.param_groups[group], self._occasion(group), leading, self.state
        )

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move every group by `lr` times its damped Newton step; all groups move, or none.

        Args:
            closure: Returns the loss for the same batch; it may call `zero_grad()` and `backward()`, as torch's
                closures do. If there was no pass inside `with optimizer.curvature():` since the last step, it is called
                there first, and has to call `backward()`. After the step it is called only if a strategy requires the
                loss then, or a step that raises it is not kept; what it does to gradients is undone.

        Returns:
            Loss of the batch after the step if it was evaluated, otherwise before it; NaN for a skipped step.

        Raises:
            CurvatureError: There was no curvature pass since the last step.
            NonFiniteError: A step is not finite; no parameter has been touched.
            ArgumentError: The loss after the step is needed, and there is no closure.
            StrategyError: A criterion or damping raised, or returned the wrong thing; no parameter has been touched.
                Or one raised in `observe`, after the step.
        """
        if closure is not None and self._passes.nothing:
            with torch.enable_grad(), self.curvature():
                closure()
        try:
            if self._passes.failed:
                raise NonFiniteError("the loss is not finite.")
            return self._step(Passes(*self._passes.result()), closure)
        except NonFiniteError:
            if self._rules.on_nonfinite == "error":
                raise
            self._passes.clear()
            self.skipped_steps += 1
            self.last_step = ()
            return float("nan")

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain data: torch's, with each strategy's table and state, and the random generators'."""
        return saved_state(super().state_dict(), self)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state that `state_dict` of an optimizer with the same groups and strategies returned.

        Raises:
            ArgumentError: The state is another optimizer's, or has other groups; nothing has been changed.
            StrategyError: A strategy differs from the one that the state was saved with; nothing has been changed.
        """
        loaded = LoadedState.of(state_dict, self.param_groups, self._generators)
        super().load_state_dict(loaded.plain)
        loaded.put_into(self)
        self._connect()

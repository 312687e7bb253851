"""`DirectionalDampedNewton`: directionally damped Newton steps as a `torch.optim.Optimizer`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from backpack import backpack
from backpack import disable as backpack_disabled
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from ddn_core.config import Config, CurvatureConfig, GroupConfig
from ddn_core.engine import Capture, Context, CurvatureCapture, GroupStep, Outcome, Wanted, damped_newton_step
from ddn_core.errors import ArgumentError, CurvatureError, StrategyError
from ddn_core.generators import DeviceGenerators
from ddn_core.optimizer_state import FAMILIES, loaded_strategies, save_strategies
from ddn_core.parameters import check_group, group_parameters, named
from ddn_core.passes import CurvaturePasses, Part
from ddn_core.plugins.resolve import as_criterion, as_damping, group_choice, in_group, validated
from ddn_core.plugins.strategy import Criterion, Damping
from ddn_core.step_report import StepReport

DEFAULT_GROUP: Mapping[str, Any] = {
    "params": ["*"],
    "criterion": {"kind": "all"},
    "damping": {"kind": "constant", "value": 1.0},
}
"""The group that an optimizer without `groups` uses: all directions, damping 1."""


class DirectionalDampedNewton(Optimizer):
    """Optimizer whose step is the directionally damped Newton step of each parameter group.

    For a group with generalized Gauss-Newton matrix `G = V Vᵀ`, the update is
    `θ ← θ + lr · Σ_k -γ̄_k / (λ̄_k + δ_k) e_k` over the directions k that the group's criterion chooses, with the
    dampings δ that its damping gives (Dangel, Tatzel, Hennig 2022, section 2).

    Model and loss function must be extended with `backpack.extend`, and forward and backward pass happen inside
    `with optimizer.curvature():`.

    Example:
        >>> optimizer = DirectionalDampedNewton(model.named_parameters(), lr=1.0)
        >>> for X, y in loader:
        ...     optimizer.zero_grad()
        ...     with optimizer.curvature():
        ...         loss = loss_function(model(X), y)
        ...         loss.backward()
        ...     optimizer.step()

    Attributes:
        last_step: A report for each group of what the last step did; empty before the first.
    """

    last_step: tuple[StepReport, ...]

    def __init__(
        self,
        params: Iterable[tuple[str, Parameter]] | Iterable[Parameter],
        groups: Config | Sequence[Mapping[str, Any] | GroupConfig] | None = None,
        lr: float = 1.0,
        *,
        curvature: CurvatureConfig | Mapping[str, Any] | None = None,
    ) -> None:
        """Set the optimizer up.

        Args:
            params: The model's parameters, with names (`model.named_parameters()`) where groups name them by globs.
            groups: Tables with `"params"` (globs on parameter names, or parameters; a parameter belongs to the first
                group that names it), `"criterion"`, `"damping"` (strategy objects, config tables, or functions with
                ViViT's signatures) and, optionally, `"lr"`; or a loaded config. One group with all directions and
                damping 1 by default.
            lr: Factor on the step, for groups that do not give their own.
            curvature: Which curvature to use, such as `{"kind": "ggn-mc", "mc_samples": 1, "seed": 0}`; by default that
                of the config, or the exact GGN.

        Raises:
            ArgumentError: A parameter is in two groups or, though it is not frozen, in none; a glob matches nothing.
            ConfigError: A criterion, damping or curvature table is wrong.
        """
        if isinstance(groups, Config):
            if lr != 1.0:
                raise ArgumentError(f"lr = {lr!r} is given beside a config, whose groups have their own. Set it there.")
            curvature, groups = curvature or groups.curvature, groups.groups
        self._settings = validated(CurvatureConfig, curvature or {}, "curvature")
        self._generators = DeviceGenerators(self._settings.seed)
        self._step_count = 0
        self._outcomes: dict[int, Outcome] = {}
        self._connect()
        super().__init__(group_parameters(named(params), [DEFAULT_GROUP] if groups is None else groups), {"lr": lr})

    def _connect(self) -> None:
        """Make the extension, with no pass to work on yet."""
        self._passes = CurvaturePasses()
        self.last_step = ()
        self._extension = CurvatureCapture(
            wanted=self._wanted,
            begin=self._passes.begin,
            deliver=self._passes.receive,
            subsampling_grad=self._settings.subsampling_grad,
            subsampling_ggn=self._settings.subsampling_ggn,
            subsampling_lambdas=self._settings.subsampling_lambdas,
            mc_samples=self._settings.sample_count,
            generator=self._generators,
            memory_budget=self._settings.memory_budget,
        )

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy or a pickle consists of; a pass that was not used is left out."""
        own = ("_settings", "_generators", "_step_count", "_outcomes")
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
            ConfigError: A criterion or damping is none, or its table is wrong.
        """
        where = f"group {len(self.param_groups)}"
        check_group(param_group, where, self.defaults["lr"])
        own = {
            "criterion": as_criterion(param_group["criterion"], where),
            "damping": as_damping(param_group["damping"], where),
        }
        try:
            super().add_param_group({**param_group, **own})
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
                supported, the loss is not finite. Gradients are then either untouched or whole.
        """
        with self._passes.block(part, accumulate), backpack(self._extension):
            yield

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move every group by `lr` times its damped Newton step; all groups move, or none.

        Args:
            closure: Returns the loss for the same batch. It is called after the step, and only if some strategy
                requires the loss after the step. It may call backward, but need not.

        Returns:
            Loss of the batch after the step if it was evaluated, otherwise before it.

        Raises:
            CurvatureError: There was no curvature pass since the last step, or a step is not finite.
            ArgumentError: A strategy requires the loss after the step, and there is no closure.
            StrategyError: A criterion or damping raised, or returned the wrong thing; no parameter has been touched.
                Or one raised in `observe`, after the step.
        """
        capture, derivatives = self._passes.result()
        needs_loss = self._strategies_that_need_the_loss()
        if needs_loss and closure is None:
            raise ArgumentError(f"{needs_loss[0]} requires the loss after the step: call step(closure).")
        planned = [self._plan(capture, derivatives, index, group) for index, group in enumerate(self.param_groups)]
        with torch.no_grad():
            for group, (_, moves) in zip(self.param_groups, planned, strict=True):
                for parameter, move in zip(group["params"], moves, strict=True):
                    parameter.add_(move, alpha=float(group["lr"]))
        self._passes.clear()
        self.last_step = tuple(
            StepReport.of(step, float(group["lr"])) for group, (step, _) in zip(self.param_groups, planned, strict=True)
        )
        self._step_count += 1
        loss_after = self._evaluate(closure) if needs_loss and closure is not None else None
        loss_before = (derivatives or capture).loss
        self._tell_strategies(loss_before, loss_after)
        return loss_before if loss_after is None else loss_after

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain data: torch's, with each strategy's table and state, and the random generators'."""
        state = super().state_dict()
        save_strategies(state["param_groups"], self.param_groups)
        state["ddn"] = {
            "step_count": self._step_count,
            "generators": self._generators.state_dict(),
            "outcomes": {index: asdict(outcome) for index, outcome in self._outcomes.items()},
        }
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state that `state_dict` of an optimizer with the same groups and strategies returned.

        Raises:
            ArgumentError: The state is another optimizer's, or has other groups; nothing has been changed.
            StrategyError: A strategy differs from the one that the state was saved with; nothing has been changed.
        """
        strategies = loaded_strategies(state_dict, self.param_groups)
        generators = self._generators.loaded(state_dict["ddn"]["generators"])
        outcomes = {index: Outcome(**saved) for index, saved in state_dict["ddn"]["outcomes"].items()}
        plain = [{key: saved[key] for key in saved if key not in FAMILIES} for saved in state_dict["param_groups"]]
        super().load_state_dict({**state_dict, "param_groups": plain})
        for group, own in zip(self.param_groups, strategies, strict=True):
            group.update(own)
        self._generators, self._step_count = generators, int(state_dict["ddn"]["step_count"])
        self._outcomes = outcomes
        self._connect()

    def _plan(
        self, capture: Capture, derivatives: Capture | None, index: int, group: dict[str, Any]
    ) -> tuple[GroupStep, tuple[Tensor, ...]]:
        """Return the step of a group and what it is in parameter space, without moving a parameter."""
        where = f"group {index}"
        criterion: Criterion = group["criterion"]
        damping: Damping = group["damping"]
        try:
            choice = group_choice(criterion, damping, where)
            occasion = Context(self._step_count, index, float(group["lr"]), self._outcomes.get(index))
            step = damped_newton_step(capture, group["params"], choice, occasion, derivatives)
            with torch.no_grad():
                moves = step.step()
                reach = max(float(extreme.abs()) for move in moves if move.numel() for extreme in move.aminmax())
        except StrategyError:
            raise
        except (CurvatureError, RuntimeError) as error:
            raise CurvatureError(f"{where}: {error} No parameter has been touched.") from error
        if not float(group["lr"]) * max(reach, 1.0) <= torch.finfo(moves[0].dtype).max:
            raise CurvatureError(
                f"{where}: lr = {group['lr']} times the step is not finite. No parameter has been touched."
            )
        return step, moves

    def _strategies_that_need_the_loss(self) -> list[str]:
        strategies = [group[family] for group in self.param_groups for family in ("criterion", "damping")]
        return [strategy.label() for strategy in strategies if "loss_after" in strategy.all_requirements()]

    def _evaluate(self, closure: Callable[[], Any]) -> float:
        """Return the loss after the step; nothing of this evaluation stays on the model."""
        with torch.enable_grad(), backpack_disabled():
            loss = closure()
        try:
            return float(loss.detach() if isinstance(loss, Tensor) else loss)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ArgumentError(f"the closure returned {loss!r}, not the loss; the step has been made.") from error

    def _tell_strategies(self, loss_before: float, loss_after: float | None) -> None:
        attentive = {
            index: (group["criterion"], group["damping"])
            for index, group in enumerate(self.param_groups)
            if not all(group[family].is_indifferent() for family in FAMILIES)
        }
        if not attentive:
            return  # spares the transfers from the device
        predicted = [float(report.predicted_decrease) for report in self.last_step]
        self._outcomes = {
            index: Outcome(
                step=self._step_count - 1,
                lr=report.lr,
                loss_before=loss_before,
                loss_after=loss_after,
                predicted_decrease=predicted[index],
                total_predicted_decrease=math.fsum(predicted),
                step_norm=float(report.step_norm),
                directions=report.directions,
            )
            for index, report in enumerate(self.last_step)
            if index in attentive
        }
        for index, strategies in attentive.items():
            for strategy in strategies:
                in_group(strategy.notify, f"group {index}, after the step")(self._outcomes[index])

    def _wanted(self) -> dict[int, Wanted]:
        found = {}
        for index, group in enumerate(self.param_groups):
            names = group.get("param_names") or [f"parameter {i} of group {index}" for i in range(len(group["params"]))]
            found.update({id(p): Wanted(name, p, index) for name, p in zip(names, group["params"], strict=True)})
        return found

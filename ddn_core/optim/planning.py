"""What the step of a group will do, without doing it: from the engine's step to where the parameters go."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ddn_core.engine import (
    Choice,
    Context,
    Pull,
    QuadraticModel,
    Spectral,
    StageClock,
    quadratic_model,
)
from ddn_core.errors import CurvatureError, NonFiniteError, StrategyError
from ddn_core.optim.raw import PREVIOUS, Passes, Raw, fresh_step, pull_of, reused_step
from ddn_core.optim.report import StepReport
from ddn_core.optim.reuse import HeldDirections

BUFFER = "momentum_buffer"
"""Key of a parameter's state: its part of momentum."""


@dataclass(frozen=True, eq=False)
class GroupPlan:
    """Where the step of a group leads.

    Attributes:
        parameters: The group's parameters.
        moves: What is added to them, times `factor`; `None` for a parameter that the loss does not reach.
        factor: Learning rate times what clips leave of the step.
        decay: Part of the parameters that decoupled weight decay takes off.
        report: What is told of the step.
        held: Directions to be used again.
        state: The optimizer's state by parameter.
        new_state: What becomes of it with this step.
    """

    parameters: Sequence[Tensor]
    moves: Sequence[Tensor | None]
    factor: float
    decay: float
    report: StepReport
    held: HeldDirections | None
    state: MutableMapping[Tensor, Any]
    new_state: Mapping[str, Sequence[Tensor]]

    def targets(self, factor: float) -> Iterator[Tensor | None]:
        """Yield the parameters after a part of the step, in their own dtypes; one at a time, since they are copies."""
        for parameter, move in zip(self.parameters, self.moves, strict=True):
            if move is None:
                yield None
                continue
            own = parameter.detach()
            start = own if not self.decay else own * (1 - factor * self.decay)
            yield torch.add(start, move, alpha=factor * self.factor).to(parameter.dtype)

    def commit(self) -> None:
        """Keep momentum and memory of the step."""
        for name, tensors in self.new_state.items():
            for parameter, tensor in zip(self.parameters, tensors, strict=True):
                self.state[parameter][name] = tensor

    def abandon(self) -> None:
        """Do nothing: state is only written by `commit`."""


def plan_group(
    passes: Passes,
    group: Mapping[str, Any],
    choice: Choice,
    occasion: Context,
    held: HeldDirections | None,
    state: MutableMapping[Tensor, Any],
    full: bool,
    predict: bool,
) -> GroupPlan:
    """Return the plan of a group.

    Args:
        passes: What the backward passes gave.
        group: The parameter group.
        choice: What its criterion and damping choose.
        occasion: The step and the group.
        held: Directions that still serve; `None` where they are computed in this step.
        state: The optimizer's state by parameter.
        full: Whether the report has derivatives of each sample.
        predict: Whether the report has the predicted decrease, where it takes a product to tell.

    Raises:
        NonFiniteError: The step, or a parameter after it, is not finite.
        CurvatureError: There is no gradient for held directions, or torch failed.
        StrategyError: A criterion or damping failed.
    """
    where = f"group {occasion.group}"
    clock = StageClock(passes.directions.seconds)
    try:
        pull = pull_of(group, state)
        raw = (
            reused_step(held, group, pull)
            if held is not None
            else fresh_step(passes, group, choice, occasion, pull, clock)
        )
        with clock.stage("step"), torch.no_grad():
            plan = _plan(passes, group, raw, pull, occasion, state, full, predict or full, clock)
        checked_targets(plan.targets(1.0), where)
    except StrategyError:
        raise
    except (CurvatureError, RuntimeError) as error:
        if str(error).startswith(where):
            raise
        kind = NonFiniteError if isinstance(error, NonFiniteError) else CurvatureError
        raise kind(f"{where}: {error} No parameter has been touched.") from error
    return plan


def checked_targets(targets: Iterable[Tensor | None], where: str) -> None:
    """Raise unless parameters are finite after a step.

    Raises:
        NonFiniteError: They are not.
    """
    for target in targets:
        if target is not None and not bool(target.sum().isfinite()) and not bool(target.isfinite().all()):
            raise NonFiniteError(
                f"{where}: lr times the step is not finite. Damp more, or lower lr. No parameter has been touched."
            )


def _plan(
    passes: Passes,
    group: Mapping[str, Any],
    raw: Raw,
    pull: Pull | None,
    occasion: Context,
    state: Mapping[Tensor, Any],
    full: bool,
    predict: bool,
    clock: StageClock,
) -> GroupPlan:
    """Return the plan: momentum, clips, and what is told."""
    params, lr = group["params"], float(group["lr"])
    momentum = float(group["momentum"])
    moves, new_state = _with_momentum(raw, group, state, momentum)
    if not all(raw.reached):
        moves = [move if own else torch.zeros_like(move) for move, own in zip(moves, raw.reached, strict=True)]
    shaped = pull is not None or bool(momentum)
    model = None
    if (shaped or passes.measured_elsewhere) and (predict or group["max_kl"] is not None):
        model = _model(passes, group, raw, pull, moves)
    norm = torch.stack([move.square().sum() for move in moves]).sum().sqrt() if shaped else None
    clip = _clip(group, lr, raw.told, model, norm)
    directions = raw.step.directions if full and raw.step is not None else None
    report = StepReport(
        lr=lr,
        clip=clip,
        uniform_damping=None if raw.step is None else raw.step.uniform_damping,
        seconds=clock.seconds,
        refreshed=raw.step is not None,
        sample_gammas=None if directions is None else directions.gammas,
        sample_lambdas=None if directions is None else directions.lambdas,
        _spectral=raw.told,
        _norm=norm,
        _model=model,
    )
    chosen = [move if reached else None for move, reached in zip(moves, raw.reached, strict=True)]
    decay = lr * float(group["decoupled_weight_decay"])
    return GroupPlan(params, chosen, lr * clip, decay, report, raw.held, state, new_state)  # type: ignore[arg-type]


def _model(
    passes: Passes, group: Mapping[str, Any], raw: Raw, pull: Pull | None, moves: Sequence[Tensor]
) -> QuadraticModel:
    """Return the quadratic model of the loss along what is moved."""
    if raw.held is not None and raw.step is None:
        return raw.held.model([parameter.grad for parameter in group["params"]], moves, pull)
    return quadratic_model(passes.directions, group["params"], moves, passes.derivatives, float(group["weight_decay"]))


def _with_momentum(
    raw: Raw, group: Mapping[str, Any], state: Mapping[Tensor, Any], momentum: float
) -> tuple[Sequence[Tensor], dict[str, Sequence[Tensor]]]:
    """Return the step with momentum, and what is to be remembered of it, in the parameters' dtypes."""
    new_state: dict[str, Sequence[Tensor]] = {}
    params, moves = group["params"], raw.moves
    if group["memory"]:
        new_state[PREVIOUS] = [move.to(p.dtype) for p, move in zip(params, moves, strict=True)]
    if not momentum:
        return moves, new_state
    buffers = []
    for parameter, move in zip(params, moves, strict=True):
        buffer = state[parameter].get(BUFFER) if parameter in state else None
        buffers.append(move if buffer is None else momentum * buffer.to(move.dtype) + move)
    new_state[BUFFER] = [buffer.to(p.dtype) for p, buffer in zip(params, buffers, strict=True)]
    if group["nesterov"]:
        return [move + momentum * buffer for move, buffer in zip(moves, buffers, strict=True)], new_state
    return buffers, new_state


def _clip(
    group: Mapping[str, Any], lr: float, told: Spectral, model: QuadraticModel | None, norm: Tensor | None
) -> float:
    """Return the factor, at most 1, by which `lr` times a step keeps to the limits of its group."""
    clip = 1.0
    if (longest := group["max_step_norm"]) is not None:
        length = lr * float(told.norm() if norm is None else norm)
        clip = min(clip, longest / length) if length > 0 else clip
    if (largest := group["max_kl"]) is not None:
        bend = float(told.bend()) if model is None else model.bend_of_loss
        divergence = 0.5 * lr**2 * bend
        clip = min(clip, math.sqrt(largest / divergence)) if divergence > 0 else clip
    return clip

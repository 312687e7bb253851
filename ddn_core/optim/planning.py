"""The planned update of a group: the engine's step, with momentum and clips, and the new values of the parameters."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ddn_core.engine import (
    Choice,
    Context,
    Directions,
    GroupStep,
    QuadraticModel,
    StageClock,
    StepSummary,
    StepTerms,
    damped_newton_step,
    largest_entry,
    quadratic_model,
    total_norm,
)
from ddn_core.errors import ArgumentError, CurvatureError, NonFiniteError, StrategyError
from ddn_core.optim.passes import StepCaptures
from ddn_core.optim.report import StepReport
from ddn_core.optim.reuse import HeldDirections

BUFFER = "momentum_buffer"
"""Key of a parameter's state: its momentum buffer."""

PREVIOUS = "previous_step"
"""Key of a parameter's state: its part of the previous step, which memory pulls towards."""

DISPLACEMENT = "displacement"
"""Key of a parameter's state: the way from the parameter, an average of iterates, to the iterate."""

OF_EARLIER_STEPS = (BUFFER, PREVIOUS, DISPLACEMENT)
"""Keys of a parameter's state that are made of earlier steps."""


@dataclass(frozen=True, eq=False)
class GroupUpdate:
    """Planned update of a group by its damped Newton step.

    Attributes:
        parameters: The group's parameters.
        moves: Vectors that are added to them, times `factor`; `None` for a parameter that the loss does not reach.
        factor: Learning rate times the factor of the clips, times the share of averaged parameters.
        decay: Fraction of the parameters that decoupled weight decay removes.
        report: Report of the step.
        held: Directions that the next step reuses; `None` if it computes its own.
        state: The optimizer's state by parameter.
        new_state: State after this step, whatever part of it is kept.
        to_iterate: Factor that turns the moves into the way to the new iterate; `None` without averaging.
    """

    parameters: Sequence[Tensor]
    moves: Sequence[Tensor | None]
    factor: float
    decay: float
    report: StepReport
    held: HeldDirections | None
    state: MutableMapping[Tensor, Any]
    new_state: Mapping[str, Sequence[Tensor]]
    to_iterate: float | None = None

    def targets(self, factor: float) -> Iterator[Tensor | None]:
        """Yield the parameters after a part of the step, in their own dtypes; one at a time, since they are copies."""
        for parameter, move in zip(self.parameters, self.moves, strict=True):
            if move is None:
                yield None
                continue
            start = parameter if not self.decay else parameter * (1 - factor * self.decay)
            yield torch.add(start, move, alpha=factor * self.factor).to(parameter.dtype)

    @torch.no_grad()
    def apply(self, factor: float) -> None:
        """Move the parameters by a part of the step from their current values."""
        moves = [move for move in self.moves if move is not None]
        moved = [own for own, move in zip(self.parameters, self.moves, strict=True) if move is not None]
        if not self.decay and all(own.dtype == move.dtype for own, move in zip(moved, moves, strict=True)):
            if moves:
                torch._foreach_add_(moved, moves, alpha=factor * self.factor)
            return
        for parameter, target in zip(self.parameters, self.targets(factor), strict=True):
            if target is not None:
                parameter.copy_(target)

    @torch.no_grad()
    def commit(self, taken: float) -> None:
        """Write momentum, memory and displacement after a part of the step."""
        for name, tensors in self.new_state.items():
            for parameter, tensor in zip(self.parameters, tensors, strict=True):
                self.state[parameter][name] = tensor
        if self.to_iterate is None:
            return
        moved = [(own, move) for own, move in zip(self.parameters, self.moves, strict=True) if move is not None]
        rest = taken * (self.to_iterate - self.factor)
        left = torch._foreach_mul([move for _, move in moved], rest) if moved else []
        for (parameter, _), displacement in zip(moved, left, strict=True):
            self.state[parameter][DISPLACEMENT] = displacement.to(parameter.dtype)

    def abandon(self) -> None:
        """Let the iterate begin anew at the parameters, after a step that was undone."""
        if self.to_iterate is not None:
            drop(self.parameters, self.state, [DISPLACEMENT])


def drop(parameters: Sequence[Tensor], state: Mapping[Tensor, Any], keys: Sequence[str] = OF_EARLIER_STEPS) -> None:
    """Drop what is kept of earlier steps, such as the displacement, so that the next step begins anew."""
    for parameter in parameters:
        for key in keys if parameter in state else ():
            state[parameter].pop(key, None)


def averaging_factor(group: Mapping[str, Any], samples: int, step: int) -> float:
    """Return the factor β of a group's average in a step; 0 without averaging.

    Args:
        group: The parameter group.
        samples: Number of samples in the gradient.
        step: Number of steps before this one.
    """
    given = group["averaging"]
    factor = min(max(1 - samples / AVERAGED_SAMPLES, 0.5), 0.97) if given == "auto" else float(given)
    return min(factor, step / (step + 2))


LEAST_SIZE = 0.03
"""Root mean square of the parameters from which `max_relative_norm` counts: smaller ones must not hold steps back."""

AVERAGED_SAMPLES = 640
"""Number of samples that the automatic average of iterates stands for."""


def terms_of(group: Mapping[str, Any], state: Mapping[Tensor, Any]) -> StepTerms | None:
    """Return weight decay, anchor and complement of a group, or `None` if it has none of them."""
    decay, memory = float(group["weight_decay"]), float(group["memory"])
    key, factor = (DISPLACEMENT, 1.0) if group["averaging"] else (PREVIOUS, memory)
    kept = [state[p].get(key) if p in state else None for p in group["params"]] if factor else []
    anchor = None
    if any(vector is not None for vector in kept):
        anchor = tuple(
            torch.zeros_like(p, requires_grad=False) if vector is None else vector if factor == 1 else factor * vector
            for p, vector in zip(group["params"], kept, strict=True)
        )
    include_complement = bool(group["include_complement"])
    if not (decay or anchor or include_complement):
        return None
    return StepTerms(decay, tuple(group["params"]), anchor, include_complement, bool(group["averaging"]))


def plan_group(
    captures: StepCaptures,
    group: Mapping[str, Any],
    choice: Choice,
    context: Context,
    held: HeldDirections | None,
    state: MutableMapping[Tensor, Any],
    full_report: bool,
    predict: bool,
) -> GroupUpdate:
    """Return the planned update of a group.

    Args:
        captures: Captures of the backward passes.
        group: The parameter group.
        choice: Criterion and damping, as functions.
        context: The step and the group.
        held: Directions of an earlier step to be reused; `None` if this step computes its own.
        state: The optimizer's state by parameter.
        full_report: Whether the report has derivatives of each sample.
        predict: Whether the report has the predicted decrease even if this costs a product with the factors.

    Raises:
        NonFiniteError: The step, or a parameter after it, is not finite.
        ArgumentError: The group has averaging together with momentum or memory.
        CurvatureError: There is no gradient for held directions, or torch failed.
        StrategyError: A criterion or damping failed.
    """
    where = f"group {context.group}"
    if group["averaging"] and (group["momentum"] or group["memory"]):
        raise ArgumentError(
            f"{where} has averaging, and momentum or memory, too. An averaged iterate needs neither. A scheduler such "
            "as OneCycleLR sets momentum unless it is given cycle_momentum=False."
        )
    clock = StageClock(captures.directions.seconds)
    is_predicted = predict or full_report or group["max_kl"] is not None
    try:
        terms, is_kept = terms_of(group, state), int(group["every"]) > 1
        if held is not None:
            step = _reused_step(held, captures.gradients(group["params"]), terms)
        else:
            if is_kept:
                choice = replace(choice, uniform_damping=lambda context: None)  # later steps need the directions
            memo = captures.memo_of(context.group, group["params"])
            step = damped_newton_step(
                captures.directions,
                group["params"],
                choice,
                context,
                captures.derivatives,
                terms,
                clock,
                memo,
                group["max_decrease"],
                is_predicted,
            )
        with clock.stage("step"), torch.no_grad():
            held_next = None
            if is_kept:
                held_next = HeldDirections.of(step) if held is None else held.older()
            moves, new_state = _with_momentum(step, group, state)
            is_shaped = terms is not None or bool(group["momentum"])
            model = None if group["momentum"] else step.model
            if model is None and is_predicted and (is_shaped or captures.has_other_curvatures):
                model = _model(captures, group, held, terms, moves)
            directions = step.directions if full_report and held is None else None
            share = 1 - averaging_factor(group, captures.gradient_samples, context.step)
            report = _report(
                group, step, moves if is_shaped else None, model, directions, held is None, clock, share, predict
            )
            plan = GroupUpdate(
                parameters=group["params"],
                moves=[move if is_reached else None for move, is_reached in zip(moves, step.reached, strict=True)],
                factor=report.lr * report.clip * share,
                decay=report.lr * float(group["decoupled_weight_decay"]),
                report=report,
                held=held_next,
                state=state,
                new_state=new_state,
                to_iterate=report.clip if group["averaging"] else None,
            )
            if group["momentum"] or step.largest is None or not plan.factor * step.largest < _room(group["params"]):
                check_targets(plan.targets(1.0))
            return plan
    except StrategyError:
        raise
    except (CurvatureError, RuntimeError) as error:
        kind = NonFiniteError if isinstance(error, NonFiniteError) else CurvatureError
        raise kind(f"{where}: {error} No parameter has been touched.") from error


def _room(parameters: Sequence[Tensor]) -> float:
    """Return the length up to which a move cannot make an ordinary parameter infinite."""
    return 1e-3 * min(torch.finfo(parameter.dtype).max for parameter in parameters)


def check_targets(targets: Iterable[Tensor | None]) -> None:
    """Raise unless parameters are finite after a step.

    Raises:
        NonFiniteError: A parameter is not finite.
    """
    if not torch.isfinite(largest_entry(target for target in targets if target is not None)):
        raise NonFiniteError("lr times the step is not finite. Damp more, or lower lr.")


def _reused_step(held: HeldDirections, gradients: Sequence[Tensor | None], terms: StepTerms | None) -> GroupStep:
    """Return the step along directions of an earlier one, for the gradient that the parameters hold."""
    if all(gradient is None for gradient in gradients):
        raise CurvatureError(
            "this step reuses the directions of an earlier one, but the parameters hold no gradient. Call step() "
            "before zero_grad()."
        )
    return held.step(gradients, terms)


def _model(
    captures: StepCaptures,
    group: Mapping[str, Any],
    held: HeldDirections | None,
    terms: StepTerms | None,
    moves: Sequence[Tensor],
) -> QuadraticModel:
    """Return the quadratic model of the loss along the moves."""
    if held is not None:
        return held.model(captures.gradients(group["params"]), moves, terms)
    decay = float(group["weight_decay"])
    return quadratic_model(captures.directions, group["params"], moves, captures.derivatives, decay)


def _with_momentum(
    step: GroupStep, group: Mapping[str, Any], state: Mapping[Tensor, Any]
) -> tuple[Sequence[Tensor], dict[str, Sequence[Tensor]]]:
    """Return the step with momentum, and the state to keep of it in the parameters' dtypes."""
    new_state: dict[str, Sequence[Tensor]] = {}
    params, moves, momentum = group["params"], step.moves, float(group["momentum"])
    if group["memory"]:
        new_state[PREVIOUS] = [move.to(p.dtype) for p, move in zip(params, moves, strict=True)]
    if momentum:
        buffers = []
        for parameter, move in zip(params, moves, strict=True):
            buffer = state[parameter].get(BUFFER) if parameter in state else None
            buffers.append(move if buffer is None else momentum * buffer.to(move.dtype) + move)
        new_state[BUFFER] = [buffer.to(p.dtype) for p, buffer in zip(params, buffers, strict=True)]
        if group["nesterov"]:
            buffers = [move + momentum * buffer for move, buffer in zip(moves, buffers, strict=True)]
        moves = tuple(buffers)
    if all(step.reached):
        return moves, new_state
    pairs = zip(moves, step.reached, strict=True)
    return [move if is_reached else torch.zeros_like(move) for move, is_reached in pairs], new_state


def _report(
    group: Mapping[str, Any],
    step: GroupStep,
    shaped_moves: Sequence[Tensor] | None,
    model: QuadraticModel | None,
    directions: Directions | None,
    is_fresh: bool,
    clock: StageClock,
    share: float,
    is_read: bool,
) -> StepReport:
    """Return the report of a step, with the clip that its group asks for.

    Args:
        group: The parameter group.
        step: The damped Newton step.
        shaped_moves: The step with momentum and terms; `None` if there are none.
        model: Quadratic model of the loss along it, if that was computed.
        directions: Directions whose per-sample derivatives are reported, if any.
        is_fresh: Whether the directions were computed for this step.
        clock: Seconds by stage.
        share: Part of the way to the new iterate by which the parameters move.
        is_read: Whether a strategy reads the outcome of the step.
    """
    norm = None
    if shaped_moves is not None:
        norm = total_norm(shaped_moves)
    lr = float(group["lr"])
    clip, length = _clip(group, lr * share, step.summary, model, norm)
    return StepReport(
        lr=lr,
        clip=clip,
        uniform_damping=step.uniform_damping,
        seconds=clock.seconds,
        share=share,
        damping_factor=step.damping_factor,
        displacement_change=0.0 if step.context is None or not is_read else step.context.displacement_change,
        refreshed=is_fresh,
        sample_gammas=None if directions is None else directions.gammas,
        sample_lambdas=None if directions is None else directions.lambdas,
        _summary=step.summary,
        _norm=norm,
        _length=length,
        _model=model,
    )


def _clip(
    group: Mapping[str, Any], lr: float, summary: StepSummary, model: QuadraticModel | None, norm: Tensor | None
) -> tuple[float, float | None]:
    """Return the factor, at most 1, that keeps a step within the limits of its group, and its norm if it was read.

    Args:
        group: The parameter group.
        lr: Factor on the step.
        summary: The step along its directions.
        model: Quadratic model of the loss along it, if that was computed.
        norm: Its norm, if it is more than the step along the directions.
    """
    clip, length = 1.0, None
    if group["max_step_norm"] is not None or group["max_relative_norm"] is not None:
        length, longest = _norms(group, summary.norm() if norm is None else norm)
        _check_limited("norm", length)
        clip = min(clip, longest / (lr * length)) if lr * length > 0 else clip
    if (largest := group["max_kl"]) is not None:
        curvature = float(summary.curvature()) if model is None else model.loss_curvature
        divergence = 0.5 * lr**2 * curvature
        _check_limited("curvature", divergence)
        clip = min(clip, math.sqrt(largest / divergence)) if divergence > 0 else clip
    return clip, length


def _check_limited(name: str, size: float) -> None:
    """Raise unless a limit can be applied to a step, which an infinite size would shorten to zero.

    Raises:
        NonFiniteError: The size is not finite.
    """
    if not math.isfinite(size):
        raise NonFiniteError(f"the {name} of the step, which a limit needs, is {size}. Damp more, or use float64.")


def _norms(group: Mapping[str, Any], norm: Tensor) -> tuple[float, float]:
    """Return the norm of a step, and the largest one that its group allows; both are read at once."""
    longest, relative = group["max_step_norm"] or math.inf, group["max_relative_norm"]
    if relative is None:
        return float(norm), longest
    length, size = torch.stack([norm, total_norm(group["params"])]).tolist()
    least = LEAST_SIZE * math.sqrt(sum(parameter.numel() for parameter in group["params"]))
    return length, min(longest, relative * max(size, least))

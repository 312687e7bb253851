"""The curvature passes between two steps: one, several micro-batches, or one for directions and one for derivatives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ddn_core.config import CurvatureConfig
from ddn_core.engine import (
    Capture,
    CaptureSettings,
    GroupMemo,
    PlanStore,
    Subsampling,
    backward_as_usual,
    backward_handed_to,
    captured_backward,
    concatenate,
    root_of,
)
from ddn_core.errors import ArgumentError, CurvatureError, NonFiniteError
from ddn_core.generators import DeviceGenerators
from ddn_core.optim.gradients import GradientRecord, with_gradients
from ddn_core.optim.pass_parameters import PassParameters
from ddn_core.optim.processes import are_several_processes, check_own_model
from ddn_core.optim.scaling import ScaledStep, factors_of

ParametersNow = Callable[[], PassParameters]

Purpose = Literal["all", "directions", "derivatives"]
"""Purpose of a curvature pass: the whole step, its directions, or the derivatives along them."""

BROKEN = (
    "a backward pass has failed since the gradients were cleared, so that `.grad` may hold a part of it, and the other "
    "micro-batches are not the whole batch. No parameter has been touched. Call optimizer.zero_grad(), and "
    "run the backward passes of the batch again."
)
"""Message of an error about a step, or a further pass, after a backward pass that raised an exception."""


@dataclass(frozen=True, eq=False)
class StepCaptures:
    """Captures that a step is computed from.

    Attributes:
        directions: Capture that gives the directions.
        derivatives: Capture that gives the derivatives along them; `None` if it is the same.
        scale: Factor of a gradient scaler that `.grad` of the parameters still has.
    """

    directions: Capture
    derivatives: Capture | None
    scale: float = 1.0
    _memos: dict[int, GroupMemo] = field(default_factory=dict)
    _of_groups: dict[int, StepCaptures] = field(default_factory=dict)

    @property
    def has_other_curvatures(self) -> bool:
        """True if the curvatures are those of other samples than the directions, so that they are no eigenvalues."""
        one = self.directions
        return self.derivatives is not None or tuple(one.lambda_samples) != tuple(one.ggn_samples)

    @property
    def gradient_samples(self) -> int:
        """Number of samples in the gradient."""
        return (self.derivatives or self.directions).grad_count

    def of_group(self, index: int, group: Mapping[str, Any]) -> StepCaptures:
        """Return the captures of a group, with the gradient that its step uses; all tries of the step share them."""
        if group["gradient"] != "grad":
            return self
        if index not in self._of_groups:
            own = with_gradients(self.derivatives or self.directions, group, index, self.scale)
            is_one = self.derivatives is None
            self._of_groups[index] = replace(
                self,
                directions=own if is_one else self.directions,
                derivatives=None if is_one else own,
                _memos={},
            )
        return self._of_groups[index]

    def gradients(self, parameters: Sequence[Tensor]) -> list[Tensor | None]:
        """Return the gradients that parameters hold, without the scale."""
        gradients = [parameter.grad for parameter in parameters]
        if self.scale == 1:
            return gradients
        return [None if gradient is None else gradient / self.scale for gradient in gradients]

    def divided(self, loss_scale: float, scale: float) -> StepCaptures:
        """Return the captures of a loss that was not scaled, while `.grad` still has a scale."""
        other = None if self.derivatives is None else self.derivatives.divided(loss_scale)
        return StepCaptures(self.directions.divided(loss_scale), other, scale)

    def memo_of(self, group: int, parameters: Sequence[Tensor]) -> GroupMemo:
        """Return the results for a group that all tries of the step share."""
        if group not in self._memos:
            self._memos[group] = GroupMemo.of(self.directions, parameters)
        return self._memos[group]

    @property
    def loss(self) -> float:
        """Loss of the batch that the gradient belongs to."""
        return (self.derivatives or self.directions).loss


class CurvaturePasses:
    """Record of the backward passes since the last step."""

    def __init__(self, settings: CurvatureConfig, generators: DeviceGenerators, gradients: GradientRecord) -> None:
        """Begin without passes.

        Args:
            settings: Settings of the curvature.
            generators: Random generators of the Monte-Carlo samples.
            gradients: Record of the gradients that passes leave.
        """
        self._gradients = gradients
        self._settings = CaptureSettings(
            Subsampling(settings.subsampling_grad, settings.subsampling_ggn, settings.subsampling_lambdas),
            root_of(settings.mc_samples or 0, settings.kind),
            generators,
            settings.memory_budget,
        )
        self._plans = PlanStore()
        self._directions: list[Capture] = []
        self._derivatives: list[Capture] = []
        self._parameters: PassParameters | None = None
        self._is_whole = True
        self._is_paused = False
        self._is_broken = False
        self._is_own_model = False
        self._failed: set[Purpose] = set()
        self._factors: list[Sequence[Tensor]] = []

    @contextmanager
    def block(self, purpose: Purpose, accumulate: bool, parameters: ParametersNow) -> Iterator[None]:
        """Return a context in which `loss.backward()` is one backward pass with curvature.

        Args:
            purpose: `"all"` for the whole step, `"directions"` or `"derivatives"` for one half of it.
            accumulate: Whether the pass is a further micro-batch, rather than a replacement of the last pass.
            parameters: Returns the parameters of the optimizer as they are now.

        Raises:
            ArgumentError: The purpose is unknown.
        """
        check_purpose(purpose)
        done = False

        def run(
            tensors: Any,
            grad_tensors: Any = None,
            retain_graph: bool | None = None,
            create_graph: bool = False,
            grad_variables: Any = None,
            inputs: Any = None,
        ) -> None:
            nonlocal done
            if done and not self._is_paused:
                raise CurvatureError(
                    "a second backward pass in one `with optimizer.curvature():`. Its curvature would replace the "
                    "first's, while its gradient adds up. Use a block for each: with a step in between, or, for "
                    "micro-batches, `optimizer.curvature(accumulate=True)`."
                )
            done = True
            losses = [tensors] if isinstance(tensors, Tensor) else list(tensors)
            if len(losses) != 1:
                raise CurvatureError(
                    f"backward was called on {len(losses)} tensors at once. Call it on one loss, a scalar."
                )
            gradient = grad_tensors[0] if isinstance(grad_tensors, Sequence) else grad_tensors
            self.run(losses[0], purpose, accumulate, parameters, None, gradient, retain_graph, create_graph, inputs)

        with backward_handed_to(run):
            yield

    def run(
        self,
        loss: Any,
        purpose: Purpose,
        accumulate: bool | None,
        parameters: ParametersNow,
        samples: int | None = None,
        gradient: Tensor | None = None,
        retain_graph: bool | None = None,
        create_graph: bool = False,
        inputs: Any = None,
    ) -> None:
        """Run the backward pass of a loss, and record its capture.

        Args:
            loss: The loss.
            purpose: Purpose of the pass.
            accumulate: Whether the pass adds to earlier passes for the same purpose; `None` if it adds unless their
                gradients were cleared.
            parameters: Returns the parameters of the optimizer as they are now.
            samples: Number of samples in the batch; found in the graph by default.
            gradient: Constant by which the loss is multiplied.
            retain_graph: As in `Tensor.backward`.
            create_graph: As in `Tensor.backward`.
            inputs: As in `Tensor.backward`.

        Raises:
            ArgumentError: The purpose is unknown.
            CurvatureError: The loss is not supported, or its gradients would add to those of an earlier pass whose
                curvature is replaced, or that failed, or whose parameters have changed since. Or several processes
                train the model together.
            NonFiniteError: The loss is not finite.
        """
        check_purpose(purpose)
        if self._is_paused:
            with backward_as_usual():
                torch.autograd.backward(loss, gradient, retain_graph, create_graph, inputs=inputs)
            return
        now = parameters()
        place = self._admit(purpose, accumulate, now)
        factors = factors_of(loss)
        try:
            with self._gradients.adding():
                capture = captured_backward(
                    loss, now.wanted, self._settings, self._plans, samples, gradient, retain_graph, create_graph, inputs
                )
        except BaseException as error:
            place.clear()  # the gradients may include those of the failed pass, which has no curvature
            if not (isinstance(error, NonFiniteError) and factors):
                self._is_broken = True
                raise
            with backward_as_usual():  # a scaler finds the infinities in the gradients, and lowers its scale
                torch.autograd.backward(loss, gradient, retain_graph, create_graph, inputs=inputs)
            self.fail(purpose)
            return
        self._is_broken = False
        place.append(capture)
        self._factors.append(factors)
        if purpose != "derivatives":
            self._is_whole = purpose == "all"

    def _admit(self, purpose: Purpose, accumulate: bool | None, now: PassParameters) -> list[Capture]:
        """Check that a pass may follow the earlier ones, drop those that it replaces, and return its place.

        Args:
            purpose: As in `run`.
            accumulate: As in `run`.
            now: The parameters of the optimizer.

        Raises:
            CurvatureError: As in `run`.
        """
        if not self._is_own_model and are_several_processes():
            check_own_model([parameter for members in now.members for parameter in members])
            self._is_own_model = True
        place = self._derivatives if purpose == "derivatives" else self._directions
        are_cleared = now.are_cleared
        if self._is_broken and (accumulate or not are_cleared):
            raise CurvatureError(BROKEN)
        if place and accumulate is False and not are_cleared:
            raise CurvatureError(
                "there was a curvature pass since the last step, and its gradients are still there: those of this pass "
                "would be added, while its curvature would replace the other. Call zero_grad() to discard the earlier "
                "pass, or `optimizer.curvature(accumulate=True)` to add to it."
            )
        if purpose == "all":
            self._derivatives.clear()
        if accumulate is False:
            self._failed -= {purpose} if purpose != "all" else {"all", "directions", "derivatives"}
        if not accumulate and are_cleared:
            place.clear()
        if self._parameters is not None and (self._directions or self._derivatives):
            self._parameters.check()
        else:
            self._parameters = now
        if self.is_empty:
            self._gradients.forget()
            self._factors.clear()
        if self.is_empty or place:
            self._gradients.check()
        return place

    def result(self, scaled: ScaledStep | None = None) -> StepCaptures:
        """Return the captures that the next step is computed from.

        Args:
            scaled: The step that a gradient scaler asks for, if one does: captures are those of the loss without scale.

        Raises:
            NonFiniteError: A pass was aborted, since its loss was not finite.
            CurvatureError: There was no pass, or none for the directions, or the micro-batches do not belong together.
                Or a pass failed, or gradients or parameters have changed since the pass.
        """
        if self.failed:
            raise NonFiniteError("the loss is not finite.")
        if self._is_broken:
            raise CurvatureError(BROKEN)
        if not self._directions:
            missing = " for the directions" if self._derivatives else ""
            raise CurvatureError(
                f"step() needs a curvature pass{missing} since the last step. Call loss.backward() inside "
                "`with optimizer.curvature():`, or optimizer.backward(loss)."
            )
        if self._parameters is not None:
            self._parameters.check()
        self._gradients.check()
        captures = StepCaptures(
            concatenate(self._directions), concatenate(self._derivatives) if self._derivatives else None
        )
        if scaled is None:
            return captures
        return captures.divided(scaled.loss_scale(self._factors), scaled.grad_scale or 1.0)

    def discard(self) -> None:
        """Forget the passes whose gradients are cleared: all but those that give directions alone."""
        if self._is_whole:
            self._directions.clear()
        self._derivatives.clear()
        self._failed -= {"all", "derivatives"}
        self._is_broken = False
        self._gradients.forget()
        if not self._is_paused:
            self._gradients.note()  # zeros are no gradient of another pass

    def restored(self) -> None:
        """Record that the optimizer moved the parameters, and moved them back bit by bit."""
        if self._parameters is not None:
            self._parameters = self._parameters.now()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Return a context in which backward passes give gradients alone, also within a block of any optimizer."""
        self._is_paused = True
        try:
            with backward_as_usual():
                yield
        finally:
            self._is_paused = False

    def clear(self) -> None:
        """Forget all passes, once the step has been made."""
        self._is_broken = False
        self._parameters = None
        self._directions.clear()
        self._derivatives.clear()
        self._failed.clear()
        self._gradients.forget()
        self._gradients.note()

    def fail(self, purpose: Purpose) -> None:
        """Record that a pass was aborted, so that the next step cannot be made, whatever passes follow."""
        self._is_broken = False
        self._failed.add(purpose)

    @property
    def failed(self) -> bool:
        """True if a pass was aborted and no other pass has replaced it."""
        return bool(self._failed)

    @property
    def is_empty(self) -> bool:
        """True if there was no pass since the last step."""
        return not (self._directions or self._derivatives or self.failed)


def check_purpose(purpose: str) -> None:
    """Raise an `ArgumentError` if a purpose is unknown."""
    if purpose not in get_args(Purpose):
        raise ArgumentError(f"purpose is {purpose!r}. Use one of {', '.join(map(repr, get_args(Purpose)))}.")

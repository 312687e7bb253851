"""The loss of a batch after a step, which a closure computes with the random numbers of the loss before the step."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from backpack import disable as backpack_disabled
from torch import Tensor

from ddn_core.errors import ArgumentError
from ddn_core.optim.draws import Draws
from ddn_core.optim.parameters import devices_of

REPEATS = 1e-6
"""Relative difference of two evaluations at the same parameters that counts as rounding."""


@dataclass(frozen=True, eq=False)
class ClosureLoss:
    """The loss of the batch at the current parameters, by a closure; gradients are afterwards as they were before.

    A loss before and one after the step can be compared only if both are computed with the same random numbers, such as
    the masks of dropout.

    Attributes:
        closure: The user's closure.
        groups: The parameter groups.
        draws: State of the random generators from which the loss before the step was computed; `None` if it is unknown,
            since the closure did not compute that loss.
        is_required: Whether the closure has to return the loss; otherwise it may return `None`.
        fate: What has become of the step when an error is raised, for its message: `"made"` or `"undone"`.
    """

    closure: Callable[[], Any]
    groups: Sequence[Mapping[str, Any]]
    draws: Draws | None
    is_required: bool
    fate: str

    def __call__(self) -> float | None:
        """Return the loss; `None` if the closure returns none, and may do so.

        Raises:
            ArgumentError: The closure returned no loss. Or it draws other random numbers than the pass before the step
                did, and its loss depends on them.
        """
        if self.draws is not None:
            with self.draws.repeated():
                return self._loss()
        begin = Draws.now(devices_of(self.groups))
        loss = self._loss()
        if loss is None or begin.is_current:
            return loss
        again = self._loss()
        if again is None or _agree(loss, again):
            return loss
        begin.restore()
        raise ArgumentError(
            f"the closure draws random numbers, such as those of dropout: called twice, it returned {loss:.6g} and "
            f"{again:.6g} for the same parameters. Its loss cannot be compared with the loss before the step, and the "
            f"step has been {self.fate}. Let the closure compute the gradient, too, and call step(closure) without "
            "backward(loss) before it: the optimizer then repeats the random numbers. Or call step() without a closure."
        )

    def _loss(self) -> float | None:
        parameters: list[Tensor] = [parameter for group in self.groups for parameter in group["params"]]
        gradients = [parameter.grad for parameter in parameters]
        for parameter in parameters:
            parameter.grad = None
        try:
            with torch.enable_grad(), backpack_disabled(), warnings.catch_warnings():
                # BackPACK's hooks, without an extension
                warnings.filterwarnings("ignore", "Full backward hook is firing")
                loss = self.closure()
        finally:
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
        if loss is None and not self.is_required:
            return None
        try:
            return float(loss.detach() if isinstance(loss, Tensor) else loss)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ArgumentError(
                f"the closure returned {loss!r} instead of the loss, and the step has been {self.fate}. Return the "
                "loss as a scalar tensor or a number."
            ) from error


def _agree(one: float, other: float) -> bool:
    """Return whether two evaluations of a loss are equal up to rounding; NaN equals NaN."""
    return math.isclose(one, other, rel_tol=REPEATS) or (math.isnan(one) and math.isnan(other))

"""Scaled losses: `torch.amp.GradScaler` multiplies a loss, and its scale is divided out of curvature and gradients.

`scaler.step(optimizer)` sets two attributes of an optimizer that supports scaling, for the time of its step:
`found_inf` and `grad_scale`. The latter is `None` if `scaler.unscale_` has already divided `.grad`. The captured
curvature still has the scale then, which is read from the graph of the loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from ddn_core.errors import ArgumentError, CurvatureError


@dataclass(frozen=True)
class ScaledStep:
    """A step that a gradient scaler asks for.

    Attributes:
        found_inf: Whether a gradient is infinite or NaN, so that there must be no step.
        grad_scale: Factor that `.grad` has; `None` if it was divided out by `unscale_`.
    """

    found_inf: bool
    grad_scale: float | None

    @classmethod
    @contextmanager
    def announced_to(cls, optimizer: Optimizer) -> Iterator[Self | None]:
        """Return a context for the step that a scaler has announced to an optimizer; `None` without a scaler.

        A scaler deletes the attributes after a step, but not if the step raises an error; it would multiply the next
        scale by the one that was left.
        """
        try:
            yield cls._announced(optimizer)
        except BaseException:
            for name in ("found_inf", "grad_scale"):
                vars(optimizer).pop(name, None)
            raise

    @classmethod
    def _announced(cls, optimizer: Optimizer) -> Self | None:
        if not hasattr(optimizer, "found_inf"):
            return None
        found, scale = optimizer.found_inf, getattr(optimizer, "grad_scale", None)
        if isinstance(scale, Tensor) and isinstance(found, Tensor):
            found, scale = torch.stack(
                [found, scale.to(found)]
            ).tolist()  # read at once: each read waits for the device
        return cls(bool(found), None if scale is None else float(scale))

    def loss_scale(self, factors: Sequence[Sequence[Tensor]]) -> float:
        """Return the factor that the losses of the passes have.

        Args:
            factors: Tensors by which the loss of each pass was multiplied, as `factors_of` returns them.

        Raises:
            CurvatureError: `.grad` was unscaled, and the losses of the passes do not tell by which factor.
        """
        if self.grad_scale is not None:
            return self.grad_scale
        scales = {float(factor) for own in factors for factor in own}
        if len(scales) == 1 and all(len(own) == 1 for own in factors):
            return scales.pop()
        raise CurvatureError(
            "scaler.unscale_ was called, and the scale of the loss cannot be found in its graph. Let the loss of each "
            "backward pass be scaler.scale(loss), times Python numbers at most, or leave unscale_ out. No parameter "
            "has been touched."
        )

    @torch.no_grad()
    def unscale(self, groups: Sequence[Mapping[str, Any]]) -> None:
        """Divide `.grad` by its factor, as `scaler.unscale_` does, after a step that computed with the quotient."""
        if self.grad_scale is not None:
            for parameter in (parameter for group in groups for parameter in group["params"]):
                if parameter.grad is not None:
                    parameter.grad.div_(self.grad_scale)


def closure_too_late() -> ArgumentError:
    """Return the error for a closure that computes the gradient in the step of a scaler."""
    return ArgumentError(
        "a gradient scaler calls step(closure), and no pass was made before it: the scaler looks for infinities before "
        "the step, when this closure has not yet computed a gradient. Call optimizer.backward(scaler.scale(loss)) "
        "first, and let the closure return the loss without scale."
    )


def factors_of(loss: Tensor) -> tuple[Tensor, ...]:
    """Return copies of the scalar tensors by which a loss was multiplied last, such as the scale of a scaler.

    Numbers are no such tensors: torch saves them in float64, and a scaler has its scale in float32.
    """
    found, node = [], loss.grad_fn if isinstance(loss, Tensor) else None
    while node is not None and node.name() in ("MulBackward0", "DivBackward0"):
        parents: list[Any] = [parent for parent, _ in node.next_functions]
        if len(parents) != 2 or sum(parent is not None for parent in parents) != 1:
            break
        is_product, saved = node.name() == "MulBackward0", cast("Any", node)
        constant = saved._saved_other if parents[1] is None else saved._saved_self
        if is_product and isinstance(constant, Tensor) and not constant.dim() and constant.dtype == torch.float32:
            found.append(constant.detach().clone())
        node = parents[0] if parents[1] is None else parents[1]
    return tuple(found)

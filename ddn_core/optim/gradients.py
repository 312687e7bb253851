"""The `.grad` of the parameters: the record that notices changes between backward pass and step, and its use in a step.

Autograd counts the changes of a tensor in place (`_version`), so that a change is noticed without reading a value.
`tensor.data` is torch's way around this count, and ours. Values are read only to tell zeros, which the model or the
user has written to clear gradients, from those of a backward pass without curvature.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet, ref

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.weak import TensorWeakRef

from ddn_core.engine import Capture
from ddn_core.errors import CurvatureError
from ddn_core.optim.parameters import is_fallback, parameter_names

Groups = Sequence[Mapping[str, Any]]

CHANGED = (
    "after its backward pass, and the step of this group would ignore that. No parameter has been touched. To limit "
    "the step, use the settings max_step_norm or max_kl of the group; to use `.grad` as it is at the step, "
    'gradient = "grad"; to begin anew, call optimizer.zero_grad().'
)
FOREIGN = (
    "is from a backward pass without curvature, which the step would not know. Call zero_grad() before the first pass "
    "of a step. For micro-batches, make each pass with optimizer.backward(loss), or inside `with "
    "optimizer.curvature(accumulate=True):`; with Lightning's accumulate_grad_batches, use CurvatureModule of "
    'ddn_core.integrations.lightning. In a group with gradient = "grad", add to `.grad` after the pass.'
)


@dataclass(frozen=True, eq=False)
class _Left:
    """The `.grad` of a parameter, as a curvature pass left it.

    Attributes:
        gradient: Reference to the tensor, which does not keep it; `None` if there was none.
        version: Number of its changes in place.
    """

    gradient: TensorWeakRef | None
    version: int

    @classmethod
    def by(cls, parameter: Tensor) -> _Left:
        """Return what a pass that has just ended left."""
        gradient = parameter.grad
        return cls(None, 0) if gradient is None else cls(TensorWeakRef(gradient), gradient._version)

    def change(self, gradient: Tensor | None, is_read: bool) -> str | None:
        """Return what has happened to the gradient since, for a message; `None` if the step may use it.

        Args:
            gradient: `.grad` now.
            is_read: Whether the step reads the values of `.grad`, so that others are no mistake.
        """
        if gradient is None:
            return None if self.gradient is None else "was set to None"
        if self.gradient is None:
            return "was set, though the loss does not depend on it,"
        is_same = gradient is self.gradient()
        if is_read or (is_same and gradient._version == self.version):
            return None
        return "was changed in place, as by clipping," if is_same else "was replaced or added to"


class GradientRecord:
    """The gradients of all groups as the last curvature pass left them; those of fallback groups may change.

    A pass adds to the gradients of all parameters of a model, even if they are those of several optimizers. Therefore
    the records of a thread know each other. Gradients of another thread must not be read: that thread may free them.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        """Begin without a pass; gradients that are there now are no foreign ones.

        Args:
            optimizer: The optimizer, with its groups; it owns this record.
        """
        self._optimizer = ref(optimizer)
        self._is_waiting = False
        self.note()
        self._thread = _NEIGHBOURS.join(self)

    @contextmanager
    def adding(self) -> Iterator[None]:
        """Return a context for a curvature pass, whose gradients are no foreign ones to any optimizer."""
        self._thread = _NEIGHBOURS.join(self)
        neighbours = [record for record in _NEIGHBOURS.records if record._thread == self._thread and record is not self]
        others = [record for record in neighbours if next(record._problems(), None) is None]
        yield
        for record in (self, *others):
            record.note()
        self._is_waiting = True

    def forget(self) -> None:
        """Expect no step of the last pass from now on: it has been made, or the passes were dropped."""
        self._is_waiting = False

    def check(self) -> None:
        """Raise if the next step would ignore a part of the gradient.

        If there was a pass since the last step, gradients may not have changed since, unless the step of their group
        reads them. If there was none, no backward pass without curvature may have made gradients.

        Raises:
            CurvatureError: A gradient was changed, replaced or set to `None`, or another pass has made it.
        """
        for name, problem in self._problems():
            raise CurvatureError(f"{name} {problem}")

    def note(self) -> None:
        """Record the gradients that are there now, and that no step is expected to use or to miss."""
        groups = [group for group in self._groups if not is_fallback(group)]
        self._left = {id(parameter): _Left.by(parameter) for group in groups for parameter in group["params"]}

    @property
    def _groups(self) -> Groups:
        """The parameter groups; none once the optimizer is gone."""
        optimizer = self._optimizer()
        return () if optimizer is None else optimizer.param_groups

    def _problems(self) -> Iterator[tuple[str, str]]:
        """Yield parameters and what is wrong with their gradients, as the two parts of a sentence."""
        foreign: list[tuple[str, Tensor]] = []
        for index, group in enumerate(self._groups):
            if is_fallback(group):
                continue
            is_read = group["gradient"] == "grad"
            for place, parameter in enumerate(group["params"]):
                left, gradient = self._left.get(id(parameter)), parameter.grad
                if self._is_waiting and left is None:
                    continue
                change = "is new" if left is None else left.change(gradient, self._is_waiting and is_read)
                if change is None:
                    continue
                name = f"group {index}: the gradient of {parameter_names(group, index)[place]}"
                if self._is_waiting:
                    yield name, f"{change} {CHANGED}"
                elif gradient is not None:
                    foreign.append((name, gradient))
        nonzero = _are_nonzero([gradient for _, gradient in foreign])
        yield from ((name, FOREIGN) for (name, _), is_nonzero in zip(foreign, nonzero, strict=True) if is_nonzero)


@torch.no_grad()
def _are_nonzero(gradients: Sequence[Tensor]) -> list[bool]:
    """Return for each gradient whether it has a value other than zero; all are read at once."""
    found = [(gradient.to_dense() if gradient.is_sparse else gradient).any() for gradient in gradients]
    return torch.stack([one.to(found[0].device) for one in found]).tolist() if found else []


class _Neighbours(threading.local):
    """The records of the optimizers that a thread uses."""

    def __init__(self) -> None:
        """Begin without records."""
        self.records: WeakSet[GradientRecord] = WeakSet()

    def join(self, record: GradientRecord) -> int:
        """Add a record to those of this thread, and return the number of the thread."""
        self.records.add(record)
        return threading.get_ident()


_NEIGHBOURS = _Neighbours()


@torch.no_grad()
def with_gradients(capture: Capture, group: Mapping[str, Any], index: int, scale: float = 1.0) -> Capture:
    """Return a capture with the gradients that the parameters of a group hold now.

    Args:
        capture: Capture that gives the gradient.
        group: The parameter group.
        index: Its number.
        scale: Factor of a gradient scaler that the gradients still have.

    Raises:
        CurvatureError: A parameter that the loss reaches has no gradient, or one that it does not reach has one.
    """
    names, found, unused = parameter_names(group, index), {}, []
    for name, parameter in zip(names, group["params"], strict=True):
        if id(parameter) not in capture.reached:
            if parameter.grad is not None:
                unused.append((name, parameter.grad))
            continue
        if parameter.grad is None:
            raise CurvatureError(
                f'group {index} has gradient = "grad", but {name} holds no gradient. '
                "Call step() before zero_grad(), and write zeros where a parameter shall have no gradient."
            )
        gradient = parameter.grad.to(capture.dtype)
        found[id(parameter)] = gradient / scale  # a copy, since reports are computed when they are read
    for (name, _), is_nonzero in zip(unused, _are_nonzero([gradient for _, gradient in unused]), strict=True):
        if is_nonzero:
            raise CurvatureError(
                f"group {index}: {name} holds a gradient, though the loss does not depend on it: it has no curvature, "
                "and the step would not move it. No parameter has been touched. Call zero_grad() before the pass, and "
                "leave such parameters out of penalties, or to the fallback."
            )
    return capture.with_gradients(found)

"""Base class of the sides whose computation provides an extension and a hook for BackPACK, as in ViViT."""

from __future__ import annotations

from typing import Any

from backpack import backpack, extend
from torch import Tensor

from benchmarks.cases import Case
from benchmarks.sides.side import Side


class ComputingSide(Side):
    """A side with a computation; a subclass sets `_computation` and its parameter groups, `_groups`."""

    _computation: Any
    _groups: list[dict[str, Any]]

    def __init__(self, case: Case, device: str = "cpu") -> None:
        super().__init__(case, device)
        self._model, self._loss_function = extend(self.problem.model), extend(self.problem.loss_function)

    def direction(self) -> list[Tensor]:
        """Return the damped Newton step."""
        computation = self._computation
        loss = self._loss_function(self._model(self.problem.inputs), self.problem.targets)
        with backpack(*computation.get_extensions(), extension_hook=computation.get_extension_hook(self._groups)):
            loss.backward()
        return [move for group in self._groups for move in computation.get_result(group)]

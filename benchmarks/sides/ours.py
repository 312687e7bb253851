"""Our damped Newton step."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from benchmarks.cases import Case
from benchmarks.problems import parameter_groups
from benchmarks.sides.side import Side
from ddn_core import DirectionalDampedNewtonComputation

CRITERIA: dict[str, dict[str, Any]] = {"top-10": {"kind": "top-k", "k": 10}, "all": {"kind": "all"}}
DAMPING: dict[str, Any] = {"kind": "constant", "value": 1.0}


class OurSide(Side):
    """`ddn_core.DirectionalDampedNewtonComputation` with built-in strategies."""

    def __init__(self, case: Case, device: str = "cpu") -> None:
        super().__init__(case, device)
        self._computation = DirectionalDampedNewtonComputation(mc_samples_ggn=0 if case.curvature == "exact" else 1)
        self._groups = [
            {"params": parameters, "criterion": CRITERIA[case.criterion], "damping": DAMPING}
            for parameters in parameter_groups(self.problem.model, case.grouping)
        ]

    def direction(self) -> list[Tensor]:
        """Return the damped Newton step."""
        self._computation.backward(self.problem.loss(), self._groups)
        return [move for group in self._groups for move in self._computation.get_result(group)]

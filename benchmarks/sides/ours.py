"""Our damped Newton step."""

from __future__ import annotations

from typing import Any

from benchmarks.cases import Case
from benchmarks.problems import parameter_groups
from benchmarks.sides.computing import ComputingSide
from ddn_core import DirectionalDampedNewtonComputation

CRITERIA: dict[str, dict[str, Any]] = {"top-10": {"kind": "top-k", "k": 10}, "all": {"kind": "all"}}
DAMPING: dict[str, Any] = {"kind": "constant", "value": 1.0}


class OurSide(ComputingSide):
    """`ddn_core.DirectionalDampedNewtonComputation` with built-in strategies."""

    def __init__(self, case: Case, device: str = "cpu") -> None:
        super().__init__(case, device)
        self._computation = DirectionalDampedNewtonComputation(mc_samples_ggn=0 if case.curvature == "exact" else 1)
        self._groups = [
            {"params": parameters, "criterion": CRITERIA[case.criterion], "damping": DAMPING}
            for parameters in parameter_groups(self.problem.model, case.grouping)
        ]

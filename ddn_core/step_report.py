"""What a step did, as plain tensors: `DirectionalDampedNewton.last_step`."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ddn_core.engine import DampedDirections


@dataclass(frozen=True, eq=False)
class StepReport:
    """What the last step did in one group, as plain tensors.

    Attributes:
        lr: Factor on the step.
        all_evals: Eigenvalues before the criterion chose, `[R]`, loss/param².
        evals: Eigenvalues of the chosen directions, `[K]`, loss/param².
        deltas: Their dampings, `[K]`, loss/param².
        coefficients: Lengths of the step along them, without `lr`, `[K]`, param.
        step_norm: Euclidean norm of the step, without `lr`, scalar, param.
        predicted_decrease: Decrease of the loss that the quadratic model predicts for `lr` times the step, scalar.
    """

    lr: float
    all_evals: Tensor
    evals: Tensor
    deltas: Tensor
    coefficients: Tensor
    step_norm: Tensor
    predicted_decrease: Tensor

    @classmethod
    def of(cls, directions: DampedDirections, lr: float) -> StepReport:
        """Return the report of a step of `lr` times the one that the directions make."""
        return cls(
            lr=lr,
            all_evals=directions.all_evals,
            evals=directions.evals,
            deltas=directions.deltas,
            coefficients=directions.coefficients,
            step_norm=directions.step_norm(),
            predicted_decrease=directions.predicted_decrease(lr),
        )

"""What a step did, as plain tensors: `DirectionalDampedNewton.last_step`."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from ddn_core.engine import GroupStep, Spectral


@dataclass(frozen=True, eq=False)
class StepReport:
    """What the last step did in one group, as plain tensors.

    What is told along the directions is computed when it is read, if the step was made without eigenvectors: all
    directions are kept and damped alike then, and a solve gives the step.

    Attributes:
        lr: Factor on the step.
        step_norm: Euclidean norm of the step, without `lr`, scalar, param.
        predicted_decrease: Decrease of the loss that the quadratic model predicts for `lr` times the step, scalar.
        uniform_damping: The damping of every direction, if the step was made without eigenvectors, loss/param².
    """

    lr: float
    step_norm: Tensor
    predicted_decrease: Tensor
    uniform_damping: float | None
    _spectral: Spectral = field(repr=False)

    @classmethod
    def of(cls, step: GroupStep, lr: float) -> StepReport:
        """Return the report of `lr` times a step."""
        return cls(lr, step.step_norm(), step.predicted_decrease(lr), step.uniform_damping, step.spectral)

    @property
    def all_evals(self) -> Tensor:
        """Eigenvalues before the criterion chose, ascending, loss/param²: all R, or the leading ones it asked for."""
        return self._spectral.all_evals

    @property
    def evals(self) -> Tensor:
        """Eigenvalues of the chosen directions, `[K]`, loss/param²."""
        return self._spectral.evals

    @property
    def deltas(self) -> Tensor:
        """Dampings of the chosen directions, `[K]`, loss/param²."""
        return self._spectral.deltas

    @property
    def coefficients(self) -> Tensor:
        """Lengths of the step along the chosen directions, without `lr`, `[K]`, param."""
        return self._spectral.coefficients

    @property
    def fallbacks(self) -> tuple[str, ...]:
        """What the eigensolver had to try beyond the first attempt: `"eigh"`, `"float64"`, `"jitter"`."""
        return self._spectral.fallbacks

    @property
    def directions(self) -> int:
        """Number of chosen directions, K; of all there can be, min(R, P), if the step was made without eigenvectors."""
        return self._spectral.count

    def damping_range(self) -> tuple[float, float] | None:
        """Return the smallest and the largest finite damping, or `None` if there is none."""
        if self.uniform_damping is not None:
            return self.uniform_damping, self.uniform_damping
        finite = self.deltas[self.deltas.isfinite()].tolist()  # the others are directions that the step does not take
        return (min(finite), max(finite)) if finite else None

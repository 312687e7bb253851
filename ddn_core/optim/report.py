"""What a step did, as plain data: `DirectionalDampedNewton.last_step`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from ddn_core.engine import QuadraticModel, Spectral
from ddn_core.tables import html_table

NAMES = ("evals", "gammas", "lambdas", "deltas", "coefficients", "sample_gammas", "sample_lambdas")
"""The tensors of a report."""


@dataclass(frozen=True, eq=False)
class StepReport:
    """What the last step did in one group, as plain tensors and numbers.

    What is told along the directions is computed when it is read, and costs nothing otherwise. Nothing here holds what
    a layer was given or what was propagated back to it.

    Attributes:
        lr: Factor on the step.
        clip: Factor that `max_step_norm` and `max_kl` shortened `lr` times the step by, at most 1.
        taken: Part of the step that was kept in the end: 1, less where it was shortened, 0 where it was undone.
        refreshed: Whether directions were computed for this step, or reused from an earlier one (`every`).
        uniform_damping: The damping of every direction, if the step was made without eigenvectors, loss/param².
        seconds: Seconds by stage, by the host's clock: `capture` (of the backward pass, what is not the gradient),
            `gram`, `spectrum`, `strategies`, `step`; those of the pass are the same in each group.
        sample_gammas: Directional gradients of each sample, `[N_grad, K]`, loss/param; only with `full_report`.
        sample_lambdas: Directional curvatures of each sample, `[N_ggn, K]`, loss/param²; only with `full_report`.
    """

    lr: float
    clip: float
    uniform_damping: float | None
    seconds: Mapping[str, float]
    taken: float = 1.0
    refreshed: bool = True
    sample_gammas: Tensor | None = field(default=None, repr=False)
    sample_lambdas: Tensor | None = field(default=None, repr=False)
    _spectral: Spectral = field(kw_only=True, repr=False)
    _norm: Tensor | None = field(default=None, kw_only=True, repr=False)
    _model: QuadraticModel | None = field(default=None, kw_only=True, repr=False)

    def after(self, taken: float) -> StepReport:
        """Return the report of a step of which a part was kept."""
        return replace(self, taken=taken)

    @property
    def step_norm(self) -> Tensor:
        """Euclidean norm of the step, without `lr` and `clip`, scalar, param."""
        return self._spectral.norm() if self._norm is None else self._norm

    @property
    def predicted_decrease(self) -> float:
        """Decrease of the loss that the quadratic model predicts for `lr · clip` times the step.

        NaN where momentum, memory or weight decay shaped the step, so that it takes a product with the factors to
        tell, and neither a strategy nor `full_report` nor `max_kl` asked for it.
        """
        factor = self.lr * self.clip
        if self._model is not None:
            return self._model.decrease(factor)
        if self._norm is not None:
            return float("nan")
        return -float(factor * self._spectral.slope() + 0.5 * factor**2 * self._spectral.bend())

    @property
    def all_evals(self) -> Tensor:
        """Eigenvalues before the criterion chose, ascending, loss/param²: all R, or the leading ones it asked for."""
        return self._spectral.all_evals

    @property
    def evals(self) -> Tensor:
        """Eigenvalues of the chosen directions, `[K]`, loss/param²."""
        return self._spectral.evals

    @property
    def gammas(self) -> Tensor:
        """Directional gradients of the loss along them, weight decay included, `[K]`, loss/param."""
        return self._spectral.gammas

    @property
    def lambdas(self) -> Tensor:
        """Directional curvatures of the loss along them, weight decay included, `[K]`, loss/param²."""
        return self._spectral.lambdas

    @property
    def deltas(self) -> Tensor:
        """Dampings of the chosen directions, `[K]`, loss/param²."""
        return self._spectral.deltas

    @property
    def coefficients(self) -> Tensor:
        """Lengths of the damped Newton step along them, without `lr` and momentum, `[K]`, param."""
        return self._spectral.coefficients

    @property
    def fallbacks(self) -> tuple[str, ...]:
        """What the eigensolver had to try beyond the first attempt: `"eigh"`, `"float64"`, `"jitter"`."""
        return self._spectral.fallbacks

    @property
    def directions(self) -> int:
        """Number of chosen directions, K; of all there can be, min(R, P), if the step was made without eigenvectors."""
        return self._spectral.count

    def _repr_html_(self) -> str:
        """Return what the step did as a table, for a notebook."""
        low, high = self.damping_range() or (None, None)
        row = {"directions": self.directions, "smallest damping": low, "largest damping": high, "lr": self.lr}
        row |= {"clip": self.clip, "kept": self.taken, "step norm": float(self.step_norm)}
        row |= {"predicted decrease": self.predicted_decrease, "milliseconds": 1e3 * sum(self.seconds.values())}
        return html_table([row])

    def damping_range(self) -> tuple[float, float] | None:
        """Return the smallest and the largest finite damping, or `None` if there is none."""
        if self.uniform_damping is not None:
            return self.uniform_damping, self.uniform_damping
        finite = self.deltas[self.deltas.isfinite()].tolist()  # the others are directions that the step does not take
        return (min(finite), max(finite)) if finite else None

    def to_dict(self) -> dict[str, Any]:
        """Return everything as numbers, texts, lists and tables: for a log, or a file."""
        plain: dict[str, Any] = {
            name: getattr(self, name) for name in ("lr", "clip", "taken", "refreshed", "uniform_damping", "directions")
        }
        plain |= {"step_norm": float(self.step_norm), "predicted_decrease": self.predicted_decrease}
        plain |= {"seconds": dict(self.seconds), "fallbacks": list(self.fallbacks)}
        tensors = {name: getattr(self, name) for name in NAMES}
        return plain | {name: None if tensor is None else tensor.tolist() for name, tensor in tensors.items()}

"""Report of a step, as plain data: `DirectionalDampedNewton.last_step`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from ddn_core.engine import DirectionTable, QuadraticModel, StepSummary, TensorVersions, predicted_decrease
from ddn_core.tables import html_table

NAMES = ("evals", "gammas", "lambdas", "deltas", "coefficients", "sample_gammas", "sample_lambdas")
"""The tensors of a report."""


@dataclass(frozen=True, eq=False)
class StepReport:
    """The last step of one group, as plain tensors and numbers.

    Figures along the directions are computed when they are read, and cost nothing otherwise. A report keeps no layer
    inputs and no backpropagated quantities alive.

    Attributes:
        lr: Factor on the step.
        clip: Factor, at most 1, by which `max_step_norm`, `max_relative_norm` and `max_kl` shortened `lr` times the
            step.
        share: Part of the way to the new iterate by which averaged parameters move, `1 - β`; 1 without `averaging`.
        damping_factor: Factor on the dampings by which `max_decrease` was kept; the dampings here have this factor.
        displacement_change: Change of the loss from the average to the iterate, before the step, by the quadratic
            model; 0 without `averaging`, or if no strategy reads it.
        taken: Part of the step that was kept: 1 for the whole step, less if it was shortened, 0 if it was undone.
        refreshed: Whether directions were computed for this step, rather than reused from an earlier one (`every`).
        uniform_damping: Damping of every direction, if the step was computed without eigenvectors, loss/param².
        seconds: Seconds by stage, on the host's clock: `capture` (the backward pass without the gradient), `gram`,
            `spectrum`, `strategies`, `step`. The seconds of `capture` are the same in each group.
        sample_gammas: Directional gradients of each sample, `[N_grad, K]`, loss/param; only with `full_report`.
        sample_lambdas: Directional curvatures of each sample, `[N_ggn, K]`, loss/param²; only with `full_report`.
    """

    lr: float
    clip: float
    uniform_damping: float | None
    seconds: Mapping[str, float]
    share: float = 1.0
    damping_factor: float = 1.0
    displacement_change: float = 0.0
    taken: float = 1.0
    refreshed: bool = True
    sample_gammas: Tensor | None = field(default=None, repr=False)
    sample_lambdas: Tensor | None = field(default=None, repr=False)
    _summary: StepSummary = field(kw_only=True, repr=False)
    _norm: Tensor | None = field(default=None, kw_only=True, repr=False)
    _length: float | None = field(default=None, kw_only=True, repr=False)
    _model: QuadraticModel | None = field(default=None, kw_only=True, repr=False)

    def after(self, taken: float) -> StepReport:
        """Return the report of a step of which a part was kept."""
        return replace(self, taken=taken)

    def versions(self) -> TensorVersions:
        """Return the versions of the tensors of this report that strategies have received."""
        found, summary = TensorVersions(), self._summary
        if isinstance(summary, DirectionTable):  # without directions, strategies received no tensors
            for name in ("all_evals", "evals", "gammas", "lambdas"):
                found.note(name, getattr(summary, name))
        for name in ("sample_gammas", "sample_lambdas"):
            found.note(name.removeprefix("sample_"), getattr(self, name))
        return found

    @property
    def step_norm(self) -> Tensor:
        """Euclidean norm of the step, without `lr` and `clip`, scalar, param."""
        return self._summary.norm() if self._norm is None else self._norm

    @property
    def length(self) -> float:
        """The same norm as a number; reading it waits for the device, unless a limit on the step has read it."""
        return float(self.step_norm) if self._length is None else self._length

    @property
    def predicted_decrease(self) -> float:
        """Decrease of the loss that the quadratic model predicts for `lr · clip · share` times the step.

        NaN if momentum, memory or weight decay changed the step, and neither a strategy nor `full_report` nor `max_kl`
        needs the prediction, which then costs a product with the factors.
        """
        factor = self.lr * self.clip * self.share
        if self._model is not None:
            return self._model.decrease(factor)
        if self._norm is not None:
            return float("nan")
        return float(predicted_decrease(self._summary, factor))

    @property
    def all_evals(self) -> Tensor:
        """Eigenvalues before the criterion chose, ascending, loss/param²: all R, or the leading ones that it needs."""
        return self._summary.table.all_evals

    @property
    def evals(self) -> Tensor:
        """Eigenvalues of the chosen directions, `[K]`, loss/param²."""
        return self._summary.table.evals

    @property
    def gammas(self) -> Tensor:
        """Directional gradients of the loss, weight decay included, `[K]`, loss/param."""
        return self._summary.table.gammas

    @property
    def lambdas(self) -> Tensor:
        """Directional curvatures of the loss, weight decay included, `[K]`, loss/param²."""
        return self._summary.table.lambdas

    @property
    def deltas(self) -> Tensor:
        """Dampings of the chosen directions, `[K]`, loss/param²."""
        return self._summary.table.deltas

    @property
    def coefficients(self) -> Tensor:
        """Lengths of the damped Newton step along the directions, without `lr` and momentum, `[K]`, param."""
        return self._summary.table.coefficients

    @property
    def fallbacks(self) -> tuple[str, ...]:
        """Eigensolvers that were tried beyond the first: `"eigh"`, `"float64"`, `"jitter"`."""
        return self._summary.table.fallbacks

    @property
    def directions(self) -> int:
        """Number of chosen directions, K; min(R, P) if the step was computed without eigenvectors."""
        return self._summary.count

    def _repr_html_(self) -> str:
        """Return the step as a table, for a notebook."""
        low, high = self.damping_range() or (None, None)
        row = {"directions": self.directions, "smallest damping": low, "largest damping": high, "lr": self.lr}
        row |= {"clip": self.clip, "share": self.share, "kept": self.taken, "step norm": self.length}
        row |= {"predicted decrease": self.predicted_decrease, "milliseconds": 1e3 * sum(self.seconds.values())}
        return html_table([row])

    def damping_range(self) -> tuple[float, float] | None:
        """Return the smallest and the largest finite damping, or `None` if there is none."""
        if self.uniform_damping is not None:
            return self.uniform_damping, self.uniform_damping
        finite = self.deltas[self.deltas.isfinite()].tolist()  # the step does not move along the other directions
        return (min(finite), max(finite)) if finite else None

    def to_dict(self) -> dict[str, Any]:
        """Return everything as numbers, texts, lists and tables: for a log, or a file."""
        plain: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("lr", "clip", "share", "taken", "refreshed", "uniform_damping", "damping_factor", "directions")
        }
        plain |= {"step_norm": self.length, "predicted_decrease": self.predicted_decrease}
        plain |= {"displacement_change": self.displacement_change}
        plain |= {"seconds": dict(self.seconds), "fallbacks": list(self.fallbacks)}
        tensors = {name: getattr(self, name) for name in NAMES}
        return plain | {name: None if tensor is None else tensor.tolist() for name, tensor in tensors.items()}

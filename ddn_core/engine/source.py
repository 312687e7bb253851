"""Gammas, lambdas and eigenvectors from the factors of a group.

With `V_nᵀ e_k = √λ_k u_k[(n, ·)]` no second pass over the data is needed: the directional curvatures of the samples
of V are `λ[n, k] = N λ_k Σ_c u_k[(n, c)]²` (N only for a mean-reduced loss, whose V carries 1/√N), and where the
gradient of a sample is a combination `g_n = V_n c_n` of its columns, `γ[n, k] = √λ_k Σ_c c[n, c] u_k[(n, c)]`:
without a division by √λ_k. For other samples W, `Wᵀ e_k = Wᵀ V u_k / √λ_k`, and λ_k is not numerically zero.

Samples that are classified wrongly with confidence have coefficients that are many orders of magnitude larger than
their gradients: 1e8 times at a probability of 1e-16. The rounding errors of u_k, multiplied by c, would then exceed γ.
For such samples γ is computed from Vᵀ e_k, whose rows have errors relative to the columns of V.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ddn_core.engine.directions import Directions
from ddn_core.engine.gram import GroupCurvature

STEEP = 64.0
"""Ratio of `‖V‖ ‖c‖` to the norm of the numbers `c_i ‖v_i‖` above which rounding errors of eigenvectors matter."""


@dataclass(frozen=True, eq=False)
class EngineSource:
    """Derivatives along directions, and moves in parameter space, computed from the factors of a group.

    Attributes:
        basis: Curvature of the group whose eigenvectors the directions are.
        data: Curvature of the group that gives gammas and lambdas: the same, or that of another batch.
    """

    basis: GroupCurvature
    data: GroupCurvature

    def gammas(self, directions: Directions) -> Tensor:
        """Return the directional gradients `[N_grad, K]`."""
        capture = self.data.capture
        if capture.coefficients is None:
            return capture.gradient_scale * self._projections(directions, None)
        every = capture.covers_all(capture.grad_samples)
        coefficients = capture.coefficients if every else capture.coefficients[list(capture.grad_samples)]
        gammas = _weighted(self._projections(directions, capture.grad_samples), coefficients)
        same = self._own and same_samples(capture.grad_samples, capture.ggn_samples)
        if not same or directions.vectors is not None or not len(directions):
            return gammas
        norms = self.basis.gram.diagonal().sqrt().reshape(coefficients.shape)
        steep = is_steep(coefficients, norms, directions.all_evals[-1])
        if not bool(steep.any()):
            return gammas
        columns = self.basis.gram @ self.rows(directions.evecs) / directions.evals.sqrt()
        return torch.where(steep[:, None], _weighted(columns, coefficients), gammas)

    def lambdas(self, directions: Directions) -> Tensor:
        """Return the directional curvatures `[N_ggn, K]`."""
        capture = self.data.capture
        columns = self._projections(directions, capture.lambda_samples)
        squares = (
            columns.reshape(len(capture.lambda_samples), capture.columns_per_sample, len(directions)).square().sum(1)
        )
        return (len(capture.ggn_samples) if capture.reduction == "mean" else 1) * squares

    def loss_gammas(self, directions: Directions) -> Tensor:
        """Return the directional gradients of the loss, `[K]`."""
        if self._own and (span := self.data.gradient_coefficients) is not None:
            rows = self.rows(directions.evecs)
            if directions.vectors is not None or not len(directions):  # u_k = Vᵀ e_k / √λ_k has no such errors
                return (rows.T @ span) * directions.evals.sqrt()
            return gammas_in_span(rows, directions.evals, directions.all_evals[-1], span, self.basis.gram)
        if self._own and directions.vectors is not None:
            return directions.vectors @ self.data.gradient
        projected = self.rows(directions.evecs).T @ self.basis.projected_gradient_of(self.data)
        found = projected / directions.evals.sqrt()
        return found if self.data.unit == 1 else found * self.data.unit

    def loss_lambdas(self, directions: Directions) -> Tensor:
        """Return the directional curvatures of the loss, `[K]`."""
        if self._own and same_samples(self.data.capture.lambda_samples, self.data.capture.ggn_samples):
            return directions.evals
        return directions.lambdas.mean(0) if directions.reduction == "mean" else directions.lambdas.sum(0)

    def move(self, directions: Directions, lengths: Tensor) -> tuple[Tensor, ...]:
        """Return `Σ_k lengths[k, j] e_k`, `[J, *parameter.shape]` for each parameter."""
        if not len(directions):
            return self.basis.zeros(lengths.shape[1])
        if directions.vectors is not None:
            return self.basis.unflatten(lengths.T @ directions.vectors)
        weights = self.rows(directions.evecs) @ (lengths / directions.evals.sqrt()[:, None])
        return self.basis.combine(weights)

    @property
    def _own(self) -> bool:
        return self.data is self.basis

    def _projections(self, directions: Directions, samples: Sequence[int] | None) -> Tensor:
        """Return Wᵀ e_k for the columns W of the given samples; for `None`, W has the per-sample gradients."""
        capture = self.data.capture
        if self._own and samples is not None and same_samples(samples, capture.ggn_samples):
            return self.rows(directions.evecs) * directions.evals.sqrt()
        if not len(directions):
            rows = capture.grad_count if samples is None else len(samples) * capture.columns_per_sample
            return capture.zeros(rows, 0)
        columns = self.data.gradient_columns() if samples is None else self.data.root_columns(samples)
        if directions.vectors is not None:
            return self.basis.project_onto(columns, directions.vectors)
        return self.basis.project_combined_onto(columns, self.rows(directions.evecs) / directions.evals.sqrt())

    def rows(self, evecs: Tensor) -> Tensor:
        """Return Gram eigenvectors with their rows in the order of the factors."""
        capture = self.basis.capture
        return samples_first(evecs, capture.columns_per_sample)


def gammas_in_span(evecs: Tensor, evals: Tensor, largest: Tensor, span: Tensor, gram: Tensor) -> Tensor:
    """Return e_kᵀ g for `g = V c`, `[K]`.

    Args:
        evecs: Gram eigenvectors, `[R, K]`.
        evals: Their eigenvalues, `[K]`.
        largest: The largest eigenvalue of all.
        span: c, `[R]`.
        gram: VᵀV, `[R, R]`.
    """
    gammas = (evecs.T @ span) * evals.sqrt()
    norms = gram.diagonal().sqrt()
    given, made = norm(span), norm(span * norms)
    cancels = (evals / largest.sqrt()) * given > made  # the error ε √λ_k |c| is the larger one
    cancels &= largest.sqrt() * given > STEEP * made
    unit = given.clamp(min=torch.finfo(span.dtype).tiny)  # `gram @ span` may underflow or overflow
    return torch.where(cancels, (evecs.T @ (gram @ (span / unit))) / evals.sqrt() * unit, gammas)


def is_steep(coefficients: Tensor, norms: Tensor, largest: Tensor) -> Tensor:
    """Return whether `‖V‖ ‖c‖` is far larger than the norm of the numbers `c_i ‖v_i‖`, along the last axis.

    Args:
        coefficients: Coefficients c of the columns v_i.
        norms: Norms of the columns.
        largest: The largest eigenvalue of the Gram matrix; it is at most the number of columns times the largest norm².
    """
    given, made = norm(coefficients), norm(coefficients * norms)
    return largest.sqrt() * given > STEEP * made


def norm(vectors: Tensor) -> Tensor:
    """Return the Euclidean norm along the last axis, in float64: squares of numbers below 1e-19 are zero in float32."""
    found: Tensor = torch.linalg.vector_norm(vectors, dim=-1, dtype=torch.float64)
    return found


def _weighted(columns: Tensor, coefficients: Tensor) -> Tensor:
    """Return `Σ_c c[n, c] W[(n, c), k]`, `[N, K]`, for coefficients `[N, C]`."""
    return (columns.reshape(*coefficients.shape, columns.shape[1]) * coefficients[..., None]).sum(1)


def same_samples(some: Sequence[int], others: Sequence[int]) -> bool:
    """Return whether two sequences of positions are the same."""
    return some == others or tuple(some) == tuple(others)


def samples_first(evecs: Tensor, per_sample: int) -> Tensor:
    """Return Gram eigenvectors with row `n · C + c` in place of `c · N + n`."""
    return evecs.reshape(per_sample, evecs.shape[0] // per_sample, evecs.shape[1]).transpose(0, 1).reshape(evecs.shape)


def outputs_first(evecs: Tensor, per_sample: int) -> Tensor:
    """Return Gram eigenvectors with row `c · N + n` in place of `n · C + c`."""
    return evecs.reshape(evecs.shape[0] // per_sample, per_sample, evecs.shape[1]).transpose(0, 1).reshape(evecs.shape)

"""Gammas, lambdas and eigenvectors from the factors of a group.

With `V_nᵀ e_k = √λ_k u_k[(n, ·)]` no second pass over the data is needed: the directional curvatures of the samples
of V are `λ[n, k] = N λ_k Σ_c u_k[(n, c)]²` (N only for a mean-reduced loss, whose V carries 1/√N), and where the
gradient of a sample is a combination `g_n = V_n c_n` of its columns, `γ[n, k] = √λ_k Σ_c c[n, c] u_k[(n, c)]`:
nothing is divided by √λ_k. For other samples W, `Wᵀ e_k = Wᵀ V u_k / √λ_k`, where λ_k is not numerically zero.

Rounding errors are of the order of ε √λ_k |c| in the first, and of ε √(λ_max / λ_k) |g| in the second. A sample that is
classified wrongly with confidence has a c that is many orders of magnitude larger than g: the better one is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ddn_core.engine.directions import Directions
from ddn_core.engine.gram import GroupCurvature

MUCH_WORSE = 64.0
"""How much larger the error of a sample's gammas has to be for products with the whole Gram matrix to be made."""


@dataclass(frozen=True, eq=False)
class EngineSource:
    """Computes what eigenpairs alone do not tell.

    Attributes:
        basis: Curvature of the group whose eigenvectors the directions are.
        data: Curvature of the group that gammas and lambdas are read from: the same, or of another batch.
    """

    basis: GroupCurvature
    data: GroupCurvature

    def gammas(self, directions: Directions) -> Tensor:
        """Return the directional gradients `[N_grad, K]`."""
        capture = self.data.capture
        if capture.coefficients is None:
            return self._projections(directions, None)
        every = capture.all_samples(capture.grad)
        coefficients = capture.coefficients if every else capture.coefficients[list(capture.grad)]
        gammas = _weighted(self._projections(directions, capture.grad), coefficients)
        same = self._own and same_samples(capture.grad, capture.ggn)
        if not same or directions.vectors is not None or not len(directions):
            return gammas
        blocks = self.basis.gram.reshape(*coefficients.shape, *coefficients.shape).diagonal(dim1=0, dim2=2)
        products = (blocks.permute(2, 0, 1) @ coefficients[..., None])[..., 0]
        norms = MUCH_WORSE * (coefficients * products).sum(1).clamp(min=0).sqrt()
        largest = directions.all_evals[-1]
        cancels = _cancels(directions.evals, largest, coefficients.norm(dim=1)[:, None], norms[:, None])
        if not bool(cancels.any()):
            return gammas
        columns = self.basis.gram @ self._rows(directions.evecs) / directions.evals.sqrt()
        return torch.where(cancels, _weighted(columns, coefficients), gammas)

    def lambdas(self, directions: Directions) -> Tensor:
        """Return the directional curvatures `[N_ggn, K]`."""
        capture = self.data.capture
        columns = self._projections(directions, capture.lambdas)
        squares = columns.reshape(len(capture.lambdas), capture.columns_per_sample, len(directions)).square().sum(1)
        return (len(capture.ggn) if capture.reduction == "mean" else 1) * squares

    def loss_gammas(self, directions: Directions) -> Tensor:
        """Return the directional gradients of the loss, `[K]`."""
        if self._own and (span := self.data.span) is not None:
            rows = self._rows(directions.evecs)
            if directions.vectors is not None or not len(directions):  # of vectors, u_k has no such error
                return (rows.T @ span) * directions.evals.sqrt()
            return gammas_in_span(rows, directions.evals, directions.all_evals[-1], span, self.basis.products)
        if self._own and directions.vectors is not None:
            return directions.vectors @ self.data.gradient
        return (self._rows(directions.evecs).T @ self.basis.products_with(self.data)) / directions.evals.sqrt()

    def loss_lambdas(self, directions: Directions) -> Tensor:
        """Return the directional curvatures of the loss, `[K]`."""
        if self._own and same_samples(self.data.capture.lambdas, self.data.capture.ggn):
            return directions.evals
        return directions.lambdas.mean(0) if directions.reduction == "mean" else directions.lambdas.sum(0)

    def move(self, directions: Directions, lengths: Tensor) -> tuple[Tensor, ...]:
        """Return `Σ_k lengths[k, j] e_k`, `[J, *parameter.shape]` for each parameter."""
        if not len(directions):
            return self.basis.nothing(lengths.shape[1])
        if directions.vectors is not None:
            return self.basis.vectors(lengths.T @ directions.vectors)
        weights = self._rows(directions.evecs) @ (lengths / directions.evals.sqrt()[:, None])
        return self.basis.combine(weights)

    @property
    def _own(self) -> bool:
        return self.data is self.basis

    def _projections(self, directions: Directions, samples: Sequence[int] | None) -> Tensor:
        """Return Wᵀ e_k for the columns W of samples at some positions, or (None) for the per-sample gradients."""
        capture = self.data.capture
        if self._own and samples is not None and same_samples(samples, capture.ggn):
            return self._rows(directions.evecs) * directions.evals.sqrt()
        if not len(directions):
            rows = capture.samples_grad if samples is None else len(samples) * capture.columns_per_sample
            return capture.zeros(rows, 0)
        columns = self.data.gradient_columns() if samples is None else self.data.root_columns(samples)
        if directions.vectors is not None:
            return self.basis.along(columns, directions.vectors)
        return self.basis.against(columns, self._rows(directions.evecs) / directions.evals.sqrt())

    def _rows(self, evecs: Tensor) -> Tensor:
        """Return Gram eigenvectors with their rows in the order of the factors."""
        capture = self.basis.capture
        return samples_first(evecs, capture.columns_per_sample)


def gammas_in_span(evecs: Tensor, evals: Tensor, largest: Tensor, span: Tensor, products: Tensor) -> Tensor:
    """Return e_kᵀ g for `g = V c`, `[K]`.

    Args:
        evecs: Gram eigenvectors, `[R, K]`.
        evals: Their eigenvalues, `[K]`.
        largest: The largest eigenvalue of all.
        span: c, `[R]`.
        products: VᵀV c, `[R]`.
    """
    cancels = _cancels(evals, largest, span.norm(), (span @ products).clamp(min=0).sqrt())
    return torch.where(cancels, (evecs.T @ products) / evals.sqrt(), (evecs.T @ span) * evals.sqrt())


def _cancels(evals: Tensor, largest: Tensor, coefficients: Tensor, gradients: Tensor) -> Tensor:
    """Return where e_kᵀ g is less accurate from c than from g, for the norms of c and g."""
    return evals * coefficients > largest.sqrt() * gradients


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

"""Directions: what a criterion chooses from and a damping acts on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, Protocol, Self

import torch
from torch import Tensor

from ddn_core.engine.gram import GroupCurvature

Reduction = Literal["mean", "sum"]


class DirectionSource(Protocol):
    """Computes, when first asked, what eigenpairs alone do not tell."""

    def gammas(self, evals: Tensor, evecs: Tensor) -> Tensor:
        """Return the directional gradients `[N_grad, K]`."""

    def lambdas(self, evals: Tensor, evecs: Tensor) -> Tensor:
        """Return the directional curvatures `[N_ggn, K]`."""

    def combine(self, weights: Tensor) -> tuple[Tensor, ...]:
        """Return V · weights for weights `[R, K]`: `[K, *parameter.shape]` for each parameter."""


@dataclass(frozen=True, eq=False)
class Directions:
    """K eigenvectors `e_k = V u_k / √λ_k` of a group's GGN, and the derivatives of the loss along them.

    A direction's sign is arbitrary: `evecs[:, k]` and `gammas[:, k]` change sign together.

    Attributes:
        evals: Eigenvalues λ_k, all numerically nonzero, `[K]`, loss/param²; ascending before a criterion has chosen,
            then in the order of its choice.
        evecs: Gram eigenvectors u_k, `[R, K]`; row `c · N + n` belongs to output (or Monte-Carlo sample) c of sample n.
        all_evals: Eigenvalues before any were left out, ascending, `[R]`, loss/param²; its end is `evals` as long as
            no criterion has chosen.
        reduction: Reduction of the loss over the samples, `"mean"` or `"sum"`.
        source: Computes gammas, lambdas and eigenvectors when they are first read.
    """

    evals: Tensor
    evecs: Tensor
    all_evals: Tensor
    reduction: Reduction
    source: DirectionSource

    @classmethod
    def from_tensors(
        cls, evals: Tensor, evecs: Tensor, gammas: Tensor, lambdas: Tensor, reduction: Reduction = "mean"
    ) -> Directions:
        """Return directions from given tensors: to try a strategy without a model.

        Args:
            evals: Eigenvalues, ascending, `[K]`.
            evecs: Gram eigenvectors, `[R, K]`.
            gammas: Directional gradients, `[N_grad, K]`.
            lambdas: Directional curvatures, `[N_ggn, K]`.
            reduction: Reduction of the loss over the samples.
        """
        directions = cls(evals, evecs, evals, reduction, _NoSource())
        vars(directions).update(gammas=gammas, lambdas=lambdas)
        return directions

    def __len__(self) -> int:
        """Return the number of directions, K."""
        return self.evals.shape[0]

    @cached_property
    def gammas(self) -> Tensor:
        """Directional gradients `γ[n, k] = e_kᵀ g_n`, `[N_grad, K]`, loss/param; computed when first read."""
        return self.source.gammas(self.evals, self.evecs)

    @cached_property
    def lambdas(self) -> Tensor:
        """Directional curvatures `λ[n, k] = e_kᵀ G_n e_k`, `[N_ggn, K]`, loss/param²; computed when first read."""
        return self.source.lambdas(self.evals, self.evecs)

    @cached_property
    def loss_gammas(self) -> Tensor:
        """Directional gradients of the loss itself, `[K]`: mean (or sum, as the loss has it) of gammas over samples."""
        return self.gammas.mean(0) if self.reduction == "mean" else self.gammas.sum(0)

    @property
    def loss_lambdas(self) -> Tensor:
        """Directional curvatures of the loss itself, `[K]`: the mean (or sum) of lambdas, which are the eigenvalues."""
        return self.evals

    def eigenvectors(self) -> tuple[Tensor, ...]:
        """Return the eigenvectors e_k in parameter space: for each parameter of the group `[K, *parameter.shape]`.

        Computed at each call, since they are large; orthonormal when flattened and joined over the parameters.
        """
        return self.source.combine(self.evecs / self.evals.sqrt())

    def select(self, indices: Sequence[int] | Tensor) -> Self:
        """Return the directions with these indices, in this order."""
        chosen = torch.as_tensor(indices, dtype=torch.long, device=self.evals.device)
        selected = replace(self, evals=self.evals[chosen], evecs=self.evecs[:, chosen])
        for name in ("gammas", "lambdas"):
            if name in vars(self):  # already computed: keep, rather than compute again
                vars(selected)[name] = vars(self)[name][:, chosen]
        return selected


@dataclass(frozen=True, eq=False)
class EngineSource:
    """Gammas, lambdas and eigenvectors from the factors of a group.

    With `V_nᵀ e_k = √λ_k u_k[(·, n)]` no second pass over the data is needed for the lambdas:
    `λ[n, k] = N λ_k Σ_c u_k[(c, n)]²` (N only for a mean-reduced loss, whose V carries 1/√N).
    """

    curvature: GroupCurvature

    def gammas(self, evals: Tensor, evecs: Tensor) -> Tensor:
        """Return `uᵀ VᵀG / √λ`, `[N_grad, K]`; evals are nonzero, so that nothing overflows."""
        return (self.curvature.gradient_products.T @ evecs) / evals.sqrt()

    def lambdas(self, evals: Tensor, evecs: Tensor) -> Tensor:
        """Return `N λ_k Σ_c u_k[(c, n)]²`, `[N_ggn, K]`."""
        capture = self.curvature.capture
        weights = evecs.reshape(capture.columns_per_sample, capture.samples_ggn, len(evals)).square().sum(0)
        return (capture.samples_ggn if capture.reduction == "mean" else 1) * evals * weights

    def combine(self, weights: Tensor) -> tuple[Tensor, ...]:
        """Return V · weights."""
        return self.curvature.combine(weights)


class _NoSource:
    """Source of directions that were made from tensors: everything there is was given."""

    def gammas(self, evals: Tensor, evecs: Tensor) -> Tensor:
        raise AssertionError("gammas are given by from_tensors")

    def lambdas(self, evals: Tensor, evecs: Tensor) -> Tensor:
        raise AssertionError("lambdas are given by from_tensors")

    def combine(self, weights: Tensor) -> tuple[Tensor, ...]:
        raise LookupError("directions made from tensors have no parameters, so no eigenvectors in parameter space")

"""Directions: eigenvectors of a group's GGN, from which a criterion chooses and to which a damping applies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, Self

import torch
from torch import Tensor

from ddn_core.engine.context import Context, GivenNorms
from ddn_core.engine.versions import TensorVersions

Reduction = Literal["mean", "sum"]

Derivative = Literal["gammas", "lambdas", "loss_gammas", "loss_lambdas"]
"""Names of the derivatives that are computed when first read and then kept; directions lie along their last axis."""


class DirectionSource(Protocol):
    """Source of derivatives along directions and of moves in parameter space, which eigenpairs alone do not give."""

    def gammas(self, directions: Directions) -> Tensor:
        """Return the directional gradients `[N_grad, K]`."""

    def lambdas(self, directions: Directions) -> Tensor:
        """Return the directional curvatures `[N_ggn, K]`."""

    def loss_gammas(self, directions: Directions) -> Tensor:
        """Return the directional gradients of the loss itself, `[K]`."""

    def loss_lambdas(self, directions: Directions) -> Tensor:
        """Return the directional curvatures of the loss itself, `[K]`."""

    def move(self, directions: Directions, lengths: Tensor) -> tuple[Tensor, ...]:
        """Return `Σ_k lengths[k, j] e_k`, `[J, *parameter.shape]` for each parameter, for lengths `[K, J]`."""


@dataclass(frozen=True, eq=False)
class Directions:
    """K eigenvectors `e_k = V u_k / √λ_k` of a group's GGN, and the derivatives of the loss along them.

    The sign of a direction is a convention: the entry of largest magnitude of `evecs[:, k]` (the first such) is
    positive. If `evecs[:, k]` changed its sign, `gammas[:, k]` would change its sign too.

    Attributes:
        evals: Eigenvalues λ_k, all numerically nonzero, `[K]`, loss/param². They ascend until a criterion has chosen,
            and are then in the order of its choice.
        evecs: Gram eigenvectors u_k, `[R, K]`; row `c · N + n` belongs to output (or Monte-Carlo sample) c of sample n.
        all_evals: All computed eigenvalues, ascending, loss/param²: R of them (P if the group has fewer parameters than
            columns), or only the leading ones that a criterion asked for. Until a criterion has chosen, `evals` is the
            end of `all_evals`.
        reduction: Reduction of the loss over the samples, `"mean"` or `"sum"`.
        source: Computes gammas, lambdas and eigenvectors when they are first read.
        vectors: The eigenvectors e_k, `[K, P]`, if the GGN itself was decomposed; `None` otherwise.
        fallbacks: Solvers that were used after the first one failed: `"eigh"`, `"float64"`, `"jitter"`.
        context: Information beyond the directions: step count, norms, random numbers, outcome of the last step.
    """

    evals: Tensor
    evecs: Tensor
    all_evals: Tensor
    reduction: Reduction
    source: DirectionSource
    vectors: Tensor | None = field(default=None, repr=False)
    fallbacks: tuple[str, ...] = ()
    context: Context = field(default_factory=Context)
    _known: dict[Derivative, Tensor] = field(default_factory=dict, init=False, repr=False)
    _versions: TensorVersions = field(default_factory=TensorVersions, init=False, repr=False)

    def __post_init__(self) -> None:
        """Note the versions of the tensors, before anybody can change them."""
        for name in ("evals", "evecs", "all_evals", "vectors"):
            self._versions.note(name, getattr(self, name))

    @classmethod
    def from_tensors(
        cls,
        evals: Tensor,
        evecs: Tensor,
        gammas: Tensor,
        lambdas: Tensor,
        reduction: Reduction = "mean",
        context: Context | None = None,
        *,
        all_evals: Tensor | None = None,
        loss_gammas: Tensor | None = None,
        loss_lambdas: Tensor | None = None,
    ) -> Directions:
        """Return directions from given tensors, for example to try a strategy without a model.

        Args:
            evals: Eigenvalues, ascending, `[K]`.
            evecs: Gram eigenvectors, `[R, K]`.
            gammas: Directional gradients, `[N_grad, K]`.
            lambdas: Directional curvatures, `[N_ggn, K]`.
            reduction: Reduction of the loss over the samples.
            context: Information beyond the directions; by default that of the first step, with the gradient in the span
                of the directions.
            all_evals: All computed eigenvalues, ascending; `evals` by default.
            loss_gammas: Directional gradients of the loss itself, `[K]`; by default the mean (or sum) of `gammas`.
            loss_lambdas: Directional curvatures of the loss itself, `[K]`; `evals` by default.
        """
        if context is None:
            samples = max(lambdas.shape[0], 1)
            gradient = gammas.mean(0) if reduction == "mean" else gammas.sum(0)
            context = Context(
                outputs=max(len(evecs) // samples, 1),
                samples=samples,
                parameters=max(*evecs.shape, 1),
                norms=GivenNorms(gradient=float(gradient.double().norm())),
            )
        every = evals if all_evals is None else all_evals
        known: dict[Derivative, Tensor] = {"gammas": gammas, "lambdas": lambdas}
        if loss_gammas is not None:
            known["loss_gammas"] = loss_gammas
        if loss_lambdas is not None:
            known["loss_lambdas"] = loss_lambdas
        directions = cls(evals, evecs, every, reduction, _NoSource(), context=context)
        directions._known.update(known)
        return directions

    def __len__(self) -> int:
        """Return the number of directions, K."""
        return self.evals.shape[0]

    @property
    def gammas(self) -> Tensor:
        """Directional gradients `γ[n, k] = e_kᵀ g_n`, `[N_grad, K]`, loss/param; computed when first read."""
        return self._derivative("gammas", self.source.gammas)

    @property
    def lambdas(self) -> Tensor:
        """Directional curvatures `λ[n, k] = e_kᵀ G_n e_k`, `[N_ggn, K]`, loss/param²; computed when first read."""
        return self._derivative("lambdas", self.source.lambdas)

    @property
    def loss_gammas(self) -> Tensor:
        """Directional gradients of the loss itself, `[K]`, loss/param: the mean (or sum) of gammas over samples.

        In a group with `gradient = "grad"` they are those of the parameters' `.grad`, and gammas those of the samples.

        If the per-sample gradients are not in the span of V, this is cheaper than gammas: only the gradient of the loss
        is projected.
        """
        return self._derivative("loss_gammas", self.source.loss_gammas)

    @property
    def loss_lambdas(self) -> Tensor:
        """Directional curvatures of the loss itself, `[K]`, loss/param²: the mean (or sum) of lambdas over samples.

        They equal the eigenvalues, unless other samples give the lambdas than give the directions.
        """
        return self._derivative("loss_lambdas", self.source.loss_lambdas)

    def _derivative(self, name: Derivative, compute: Callable[[Directions], Tensor]) -> Tensor:
        if name not in self._known:
            self._known[name] = compute(self)
        self._versions.note(name, self._known[name])
        return self._known[name]

    def with_context(self, context: Context) -> Self:
        """Return the same directions, whose derivatives are computed only once, with another context."""
        other = replace(self, context=context)
        vars(other).update(_known=self._known, _versions=self._versions)
        return other

    def changed_in_place(self) -> str | None:
        """Return the name of a tensor of these directions that a strategy has changed in place, or `None`."""
        return self._versions.changed()

    def eigenvectors(self) -> tuple[Tensor, ...]:
        """Return the eigenvectors e_k in parameter space, `[K, *parameter.shape]` for each parameter of the group.

        They are computed anew at each call, because they are large. Flattened and concatenated over the parameters,
        they are orthonormal.
        """
        return self.source.move(self, torch.eye(len(self), dtype=self.evals.dtype, device=self.evals.device))

    def select(self, indices: Sequence[int] | Tensor) -> Self:
        """Return the directions at the given indices, in the given order."""
        chosen = torch.as_tensor(indices, dtype=torch.long, device=self.evals.device)
        selected = replace(
            self,
            evals=self.evals[chosen],
            evecs=self.evecs[:, chosen],
            vectors=None if self.vectors is None else self.vectors[chosen],
        )
        selected._known.update({name: derivative[..., chosen] for name, derivative in self._known.items()})
        return selected


class _NoSource:
    """Source for directions that were made from tensors, where every value is given."""

    def gammas(self, directions: Directions) -> Tensor:
        raise AssertionError("gammas are given by from_tensors")

    def lambdas(self, directions: Directions) -> Tensor:
        raise AssertionError("lambdas are given by from_tensors")

    def loss_gammas(self, directions: Directions) -> Tensor:
        return directions.gammas.mean(0) if directions.reduction == "mean" else directions.gammas.sum(0)

    def loss_lambdas(self, directions: Directions) -> Tensor:
        return directions.evals

    def move(self, directions: Directions, lengths: Tensor) -> tuple[Tensor, ...]:
        raise LookupError("directions made from tensors have no parameters, so no eigenvectors in parameter space")

"""Directions that serve several steps: eigenvectors, curvatures and dampings are kept, gradients are fresh."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ddn_core.engine import DampedDirections, Pull, QuadraticModel, SpectralSummary
from ddn_core.errors import ArgumentError

TENSORS = ("all_evals", "evals", "lambdas", "deltas")


@dataclass(frozen=True, eq=False)
class HeldDirections:
    """The chosen directions of a step, to be used again; with them along each gradient the step of `pull.py` is made.

    Attributes:
        eigenvectors: e_k, for each parameter `[K, *shape]`.
        all_evals: Eigenvalues before the criterion chose, loss/param².
        evals: Eigenvalues of the directions, `[K]`, loss/param².
        lambdas: Directional curvatures of the loss, weight decay included, `[K]`, loss/param².
        deltas: Dampings, `[K]`, loss/param².
        factor: Factor on what the step goes against where it has no direction (`pull.py`).
        age: Number of steps that they served.
    """

    eigenvectors: tuple[Tensor, ...]
    all_evals: Tensor
    evals: Tensor
    lambdas: Tensor
    deltas: Tensor
    factor: float
    age: int = 1

    @classmethod
    def of(cls, damped: DampedDirections) -> HeldDirections:
        """Return what is kept of the directions of a step that is being made."""
        return cls(
            eigenvectors=damped.eigenvectors(),
            all_evals=damped.all_evals,
            evals=damped.evals,
            lambdas=damped.loss_lambdas,
            deltas=damped.deltas,
            factor=getattr(damped, "factor", 0.0),
        )

    def older(self) -> HeldDirections:
        """Return the same directions after another step."""
        return replace(self, age=self.age + 1)

    def step(self, gradients: Sequence[Tensor | None], pull: Pull | None) -> tuple[tuple[Tensor, ...], SpectralSummary]:
        """Return the step along a gradient, and what is told of it.

        Args:
            gradients: Gradient of the loss with respect to each parameter; `None` for one that was not reached.
            pull: Weight decay and memory.
        """
        dtype = self.evals.dtype
        gammas = self.along([None if gradient is None else gradient.to(dtype) for gradient in gradients])
        if pull is None:
            anchors = torch.zeros_like(gammas)
            coefficients = -gammas / (self.lambdas + self.deltas)
            moves = self.combine(coefficients)
        else:
            vectors = pull.vectors(dtype)
            own, anchors = (self.along([pair[place] for pair in vectors]) for place in (0, 1))
            gammas = gammas + pull.decay * own
            coefficients = anchors - (gammas + self.lambdas * anchors) / (self.lambdas + self.deltas)
            given = [torch.zeros_like(p) if g is None else g for p, g in zip(pull.parameters, gradients, strict=True)]
            outside = pull.outside(given if pull.rest else None, dtype)
            moves = self.combine(coefficients - anchors - self.factor * self.along(outside))
            reached = {id(p) for p, g in zip(pull.parameters, gradients, strict=True) if g is not None}
            moves = pull.beside(moves, outside, self.factor, reached)
        told = SpectralSummary(self.all_evals, self.evals, gammas, self.lambdas, self.deltas, coefficients, ())
        return moves, told

    def model(self, gradients: Sequence[Tensor | None], moves: Sequence[Tensor], pull: Pull | None) -> QuadraticModel:
        """Return the quadratic model along a move: the slope of the gradient, the curvature of the directions."""
        dtype, decay = self.evals.dtype, 0.0 if pull is None else pull.decay
        slope, squares = 0.0, 0.0
        own = moves if pull is None else [parameter.detach() for parameter in pull.parameters]
        for gradient, move, parameter in zip(gradients, moves, own, strict=True):
            if gradient is not None:
                slope += float((gradient.to(dtype) * move).sum()) + decay * float((parameter * move).sum())
                squares += float(move.square().sum())
        bend = float(((self.lambdas - decay) * self.along(moves).square()).sum())
        return QuadraticModel(slope, bend + decay * squares, bend)

    def along(self, vectors: Sequence[Tensor | None]) -> Tensor:
        """Return e_kᵀ v, `[K]`, for a vector in the shapes of the parameters."""
        total = torch.zeros_like(self.evals)
        for own, vector in zip(self.eigenvectors, vectors, strict=True):
            if vector is not None:
                total += own.flatten(1) @ vector.flatten()
        return total

    def combine(self, lengths: Tensor) -> tuple[Tensor, ...]:
        """Return `Σ_k lengths[k] e_k` in the shapes of the parameters."""
        return tuple((lengths @ own.flatten(1)).reshape(own.shape[1:]) for own in self.eigenvectors)

    def state_dict(self) -> dict[str, Any]:
        """Return all as plain data."""
        tensors = {name: getattr(self, name) for name in TENSORS}
        return {**tensors, "eigenvectors": list(self.eigenvectors), "factor": self.factor, "age": self.age}

    @classmethod
    def loaded(cls, state: Mapping[str, Any], parameters: Sequence[Tensor]) -> HeldDirections:
        """Return what `state_dict` told of, on the device of the parameters.

        Raises:
            ArgumentError: It is of other parameters.
        """
        device = parameters[0].device
        vectors = tuple(vector.to(device) for vector in state["eigenvectors"])
        if [vector.shape[1:] for vector in vectors] != [parameter.shape for parameter in parameters]:
            raise ArgumentError("the state has directions of parameters of other shapes.")
        tensors = {name: state[name].to(device) for name in TENSORS}
        return cls(eigenvectors=vectors, factor=float(state["factor"]), age=int(state["age"]), **tensors)

"""Directions that serve several steps: eigenvectors, curvatures and dampings are kept, gradients are fresh."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ddn_core.engine import Correction, DirectionTable, GroupStep, QuadraticModel, StepTerms
from ddn_core.errors import ArgumentError

TENSORS = ("all_evals", "evals", "lambdas", "deltas")
"""Tensors that a state holds in addition to the eigenvectors."""


@dataclass(frozen=True, eq=False)
class HeldDirections:
    """The chosen directions of a step, kept for the next ones.

    Attributes:
        eigenvectors: e_k, for each parameter `[K, *shape]`.
        all_evals: Eigenvalues before the criterion chose, loss/param².
        evals: Eigenvalues of the directions, `[K]`, loss/param².
        lambdas: Directional curvatures of the loss, weight decay included, `[K]`, loss/param².
        deltas: Dampings, `[K]`, loss/param².
        complement_factor: Factor on the slope outside of the directions, not positive.
        age: Number of steps that used these directions.
    """

    eigenvectors: tuple[Tensor, ...]
    all_evals: Tensor
    evals: Tensor
    lambdas: Tensor
    deltas: Tensor
    complement_factor: float
    age: int = 1

    @classmethod
    def of(cls, step: GroupStep) -> HeldDirections:
        """Return the directions of a step."""
        assert step.uniform_damping is None, "a solved step has another factor on the slope outside of its directions"
        directions = step.directions
        return cls(
            eigenvectors=directions.eigenvectors(),
            # copies, since the strategies may keep the tensors, and change them before these directions are reused
            all_evals=directions.all_evals.clone(),
            evals=directions.evals.clone(),
            lambdas=directions.loss_lambdas.clone(),
            deltas=directions.deltas,
            complement_factor=step.complement_factor,
        )

    def older(self) -> HeldDirections:
        """Return the same directions after another step."""
        return replace(self, age=self.age + 1)

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor | None], terms: StepTerms | None) -> GroupStep:
        """Return the step for a gradient; its entries may be infinite or NaN.

        Args:
            gradients: Gradient of the loss for each parameter; `None` for a parameter that the loss does not reach.
            terms: Weight decay, anchor and complement.
        """
        dtype = self.evals.dtype
        given = [None if gradient is None else gradient.to(dtype) for gradient in gradients]
        gammas, projections, anchors = self.project(given), None, None
        if terms is not None:
            vectors = terms.vectors(dtype)
            projections = torch.stack([self.project([pair[place] for pair in vectors]) for place in (0, 1)])
            gammas, anchors = gammas + terms.decay * projections[0], projections[1]
        table = DirectionTable(self.all_evals, self.evals, gammas, self.lambdas, self.deltas, anchors=anchors)
        correction = Correction.along(table, self.combine, terms, projections, self.complement_factor)
        reached = tuple(gradient is not None for gradient in gradients)
        moves = correction.step(terms, given if terms is not None and terms.include_complement else None, reached)
        return GroupStep(moves, table, reached, self.complement_factor)

    def model(
        self, gradients: Sequence[Tensor | None], moves: Sequence[Tensor], terms: StepTerms | None
    ) -> QuadraticModel:
        """Return the quadratic model along a move: the slope of the gradient, the curvature of the directions."""
        dtype, decay = self.evals.dtype, 0.0 if terms is None else terms.decay
        slope, squares = 0.0, 0.0
        parameters = moves if terms is None else [parameter.detach() for parameter in terms.parameters]
        for gradient, move, parameter in zip(gradients, moves, parameters, strict=True):
            if gradient is not None:
                slope += float((gradient.to(dtype) * move).sum()) + decay * float((parameter * move).sum())
                squares += float(move.square().sum())
        curvature = float(((self.lambdas - decay) * self.project(moves).square()).sum())
        return QuadraticModel(slope, curvature + decay * squares, curvature)

    def project(self, vectors: Sequence[Tensor | None]) -> Tensor:
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
        """Return everything as plain data."""
        tensors = {name: getattr(self, name) for name in TENSORS}
        return {**tensors, "eigenvectors": list(self.eigenvectors), "factor": self.complement_factor, "age": self.age}

    @classmethod
    def loaded(cls, state: Mapping[str, Any], parameters: Sequence[Tensor]) -> HeldDirections:
        """Return the directions that `state_dict` returned, on the device of the parameters.

        Raises:
            ArgumentError: The state belongs to other parameters.
        """
        device = parameters[0].device
        vectors = tuple(vector.to(device) for vector in state["eigenvectors"])
        if (found := [list(vector.shape[1:]) for vector in vectors]) != (own := [list(p.shape) for p in parameters]):
            raise ArgumentError(
                f"the state has directions of parameters of shapes {found}, but the group has parameters of shapes "
                f"{own}. Load the state into the optimizer that saved it."
            )
        counts = {len(vector) for vector in vectors} | {len(state[name]) for name in TENSORS if name != "all_evals"}
        if len(counts) != 1:
            raise ArgumentError(
                f"the state has eigenvectors, eigenvalues, curvatures and dampings of {sorted(counts)} directions, but "
                "their numbers must be equal. The state is damaged: load another one."
            )
        tensors = {name: state[name].to(device) for name in TENSORS}
        return cls(eigenvectors=vectors, complement_factor=float(state["factor"]), age=int(state["age"]), **tensors)

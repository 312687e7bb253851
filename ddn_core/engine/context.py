"""What a strategy can know beyond the directions: one object, which can grow without breaking plugins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from typing import Protocol

import torch
from torch import Generator, Tensor

from ddn_core.engine.gram import GroupCurvature
from ddn_core.engine.outcome import Outcome


class Norms(Protocol):
    """The sizes of gradient, parameters and curvature of a group, computed when first read."""

    @property
    def gradient(self) -> float:
        """Euclidean norm of the gradient of the loss, loss/param."""

    @property
    def parameters(self) -> float:
        """Euclidean norm of the parameters, param."""

    @property
    def curvature(self) -> float:
        """Mean of the eigenvalues, zeros included, loss/param²."""


@dataclass(frozen=True)
class GivenNorms:
    """Norms as plain numbers."""

    gradient: float = 1.0
    parameters: float = 1.0
    curvature: float = 1.0


@dataclass(frozen=True, eq=False)
class GroupNorms:
    """Norms of a group of parameters.

    Attributes:
        basis: Curvature that the directions are of.
        data: Curvature that the gradient belongs to.
        tensors: The parameters.
    """

    basis: GroupCurvature
    data: GroupCurvature
    tensors: Sequence[Tensor]

    @cached_property
    def curvature(self) -> float:
        """Mean of the eigenvalues, zeros included, loss/param²."""
        with torch.no_grad():
            return float(self.basis.trace) / max(min(self.basis.size, self.basis.capture.columns), 1)

    @cached_property
    def gradient(self) -> float:
        """Euclidean norm of the gradient of the loss, loss/param."""
        with torch.no_grad():
            return float(torch.linalg.vector_norm(self.data.gradient, dtype=torch.float64))

    @cached_property
    def parameters(self) -> float:
        """Euclidean norm of the parameters, param."""
        with torch.no_grad():
            norms = [torch.linalg.vector_norm(tensor.detach(), dtype=torch.float64) for tensor in self.tensors]
            return float(torch.linalg.vector_norm(torch.stack(norms)))


@dataclass(frozen=True, eq=False)
class Context:
    """What a strategy can know beyond the directions; attributes may be added.

    It is known before any eigenpair is, and is the same for the criterion and the damping of a group.

    Attributes:
        step: Number of steps that were taken before this one; of passes, in a computation that takes no steps.
        group: Number of the parameter group.
        lr: Factor on the group's step.
        last: What the group's last step did; `None` before the first, and where no strategy of the group observes or
            requires `"outcome"`.
        outputs: Number of outputs C of the model for each sample, such as classes.
        samples: Number of samples N in the GGN.
        parameters: Number of parameters P of the group that the loss reaches.
        norms: Norms of gradient and parameters.
    """

    step: int = 0
    group: int = 0
    lr: float = 1.0
    last: Outcome | None = None
    outputs: int = 1
    samples: int = 1
    parameters: int = 1
    norms: Norms = field(default=GivenNorms(), repr=False)

    @property
    def gradient_norm(self) -> float:
        """Euclidean norm of the gradient of the loss with respect to the group, loss/param; computed when first read.

        Gradients that are not in the span of the directions count too.
        """
        return self.norms.gradient

    @property
    def parameter_norm(self) -> float:
        """Euclidean norm of the group's parameters, param; computed when first read."""
        return self.norms.parameters

    @property
    def mean_curvature(self) -> float:
        """Mean of the eigenvalues, zeros included: trace over min(R, P), loss/param²; computed when first read.

        It takes no eigenvalue, and is known before any is.
        """
        return self.norms.curvature

    def generator(self, seed: int = 0) -> Generator:
        """Return a random generator on the CPU that depends on seed, step and group only.

        The same call gives the same numbers: there is no state to save, and a strategy that is called twice in a step
        answers alike.

        Args:
            seed: Any integer.
        """
        digest = blake2b(f"{seed} {self.step} {self.group}".encode(), digest_size=8).digest()
        return Generator().manual_seed(int.from_bytes(digest) >> 1)

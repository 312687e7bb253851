"""Information for strategies beyond the directions, in one object that can grow without breaking plugins."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Protocol

from torch import Generator

from ddn_core.engine.outcome import Outcome


class Figures(Protocol):
    """Norms, mean curvature and slopes of a group, each computed when first read."""

    @property
    def gradient(self) -> float:
        """Euclidean norm of the gradient of the loss, loss/param."""

    @property
    def parameters(self) -> float:
        """Euclidean norm of the parameters, param."""

    @property
    def curvature(self) -> float:
        """Mean of the eigenvalues, zeros included, loss/param²."""

    @property
    def sample_gradients(self) -> float:
        """Mean over the samples of the squared Euclidean norm of their gradients, loss²/param²."""

    @property
    def displacement(self) -> tuple[float, float]:
        """Slope and curvature of the loss along the displacement, loss."""


@dataclass(frozen=True)
class GivenNorms:
    """Norms and other figures of a group that are given as plain numbers."""

    gradient: float = 1.0
    parameters: float = 1.0
    curvature: float = 1.0
    sample_gradients: float = 1.0
    displacement: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True, eq=False)
class Context:
    """Information for strategies beyond the directions; later versions may add attributes.

    The context is available before any eigenpair is computed. The criterion and the damping of a group get the same
    one.

    Attributes:
        step: Number of steps before this one; in a computation, which takes no steps, the number of passes.
        group: Number of the parameter group.
        lr: Factor on the group's step.
        last: Outcome of the group's last step; `None` before the first step, and if no strategy of the group observes
            or requires `"outcome"`.
        outputs: Number of outputs C of the model for each sample, such as classes.
        samples: Number of samples N in the GGN.
        parameters: Number of parameters P of the group that the loss reaches.
        loss: Loss of the batch, in loss.
        norms: Norms and other figures of the group, which the properties below read.
    """

    step: int = 0
    group: int = 0
    lr: float = 1.0
    last: Outcome | None = None
    outputs: int = 1
    samples: int = 1
    parameters: int = 1
    loss: float = 1.0
    norms: Figures = field(default=GivenNorms(), repr=False)

    @property
    def gradient_norm(self) -> float:
        """Euclidean norm of the gradient of the loss with respect to the group, loss/param; computed when first read.

        The norm includes the part of the gradient outside the span of the directions.
        """
        return self.norms.gradient

    @property
    def parameter_norm(self) -> float:
        """Euclidean norm of the group's parameters, param; computed when first read."""
        return self.norms.parameters

    @property
    def mean_curvature(self) -> float:
        """Mean of the eigenvalues, zeros included: trace over min(R, P), loss/param²; computed when first read.

        It is computed from the trace, without any eigenvalue.
        """
        return self.norms.curvature

    @property
    def sample_gradient_square(self) -> float:
        """Mean over the samples of ‖g_n‖², loss²/param²; computed when first read.

        The gradients g_n of the samples are scaled so that their mean is the gradient of the loss, which has this scale
        for a mean-reduced loss. Divided by the loss, the number has the unit of a damping, loss/param²; it is the
        reciprocal of the step length of Polyak (1987) for one sample.
        """
        return self.norms.sample_gradients

    @property
    def displacement_slope(self) -> float:
        """Derivative gᵀd of the loss along the displacement d of an averaged iterate, loss; computed when first read.

        Zero in a group without `averaging`.
        """
        return self.norms.displacement[0]

    @property
    def displacement_curvature(self) -> float:
        """Curvature dᵀGd of the loss along the displacement d of an averaged iterate, loss; computed when first read.

        Zero in a group without `averaging`.
        """
        return self.norms.displacement[1]

    @property
    def displacement_change(self) -> float:
        """Change `gᵀd + ½ dᵀGd` of this batch's loss from the average to the iterate, by the quadratic model, loss."""
        return self.displacement_slope + 0.5 * self.displacement_curvature

    def read_by(self, reader: str) -> Context:
        """Return this context for a strategy that does not declare the loss after the step, and so cannot read it.

        Args:
            reader: Name of the strategy, for messages.
        """
        return self if self.last is None else replace(self, last=self.last.read_by(reader))

    def generator(self, seed: int = 0) -> Generator:
        """Return a random generator on the CPU that depends on seed, step and group only.

        Two calls with the same seed give the same numbers. So there is no state to save, and a strategy that is called
        twice in a step returns the same result twice.

        Args:
            seed: Any integer.
        """
        digest = blake2b(f"{seed} {self.step} {self.group}".encode(), digest_size=8).digest()
        return Generator().manual_seed(int.from_bytes(digest) >> 1)

"""What draws a step beyond the loss along its directions: weight decay, memory, and the rest of the gradient.

With L2 weight decay w and anchor a the step minimizes, along the chosen directions,

    gᵀs + ½ sᵀGs + ½ w ‖θ + s‖² + ½ Σ_k δ_k (e_kᵀ(s - a))².

Decay enters gradient and curvature alike, γ̄_k + w e_kᵀθ and λ̄_k + w, before a strategy sees them. Damping draws the
step to the anchor rather than to zero, which is μ times the previous step (SPRING: Goldshlager, Abrahamsen, Lin 2024,
arXiv 2401.10190). So, with a_k = e_kᵀ a,

    s_k = a_k - (γ̄_k + λ̄_k a_k) / (λ̄_k + δ_k).

What lies in no direction has no curvature but w, and is damped by the largest δ_k. There the step is `s_⊥ = a_⊥`, and
if the criterion keeps every direction, weights are decayed, `- w (θ + a)_⊥ / (w + max δ)`; if the rest of the gradient
is wanted too, `- (g + w (θ + a))_⊥ / (w + max δ)`. With all directions and one damping for all, that is the whole
damped Newton step, `-(G + δ I)⁻¹ g`, also where the gradient is not in the span of V (Monte-Carlo samples).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property

import torch
from torch import Tensor

from ddn_core.engine.directions import Directions
from ddn_core.engine.source import EngineSource
from ddn_core.engine.step import DampedDirections, checked_step


@dataclass(frozen=True, eq=False)
class Pull:
    """Weight decay and memory of a group.

    Attributes:
        decay: Coefficient w of the L2 weight decay, loss/param².
        parameters: The group's parameters θ.
        anchor: What damping draws the step to, in the shapes of the parameters; `None` for zero.
        rest: Whether the gradient is followed where it lies in no direction.
    """

    decay: float
    parameters: tuple[Tensor, ...]
    anchor: tuple[Tensor, ...] | None = None
    rest: bool = False

    def vectors(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """Return θ and the anchor, `[2, *shape]` for each parameter."""
        anchors = self.anchor or [torch.zeros_like(parameter) for parameter in self.parameters]
        pairs = zip(self.parameters, anchors, strict=True)
        return tuple(torch.stack([own.detach().to(dtype), anchor.to(dtype)]) for own, anchor in pairs)

    def outside(self, gradient: Sequence[Tensor] | None, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """Return what the step goes against where it has no direction: `w (θ + a)`, and the gradient if it is given."""
        pulls = [self.decay * (vectors[0] + vectors[1]) for vectors in self.vectors(dtype)]
        if gradient is None:
            return tuple(pulls)
        return tuple(pull + own.to(dtype) for pull, own in zip(pulls, gradient, strict=True))

    def beside(
        self, along: Sequence[Tensor], outside: Sequence[Tensor], factor: float, reached: Collection[int]
    ) -> tuple[Tensor, ...]:
        """Return a step, from what it is along the directions.

        Args:
            along: What the directions add to the anchor, and to the factor times what is outside.
            outside: What `outside` returned.
            factor: Factor on that, not positive.
            reached: `id`s of the parameters that the loss reaches; others are not moved.
        """
        found = []
        anchors = [vectors[1] for vectors in self.vectors(along[0].dtype)]
        for parameter, own, anchor, rest in zip(self.parameters, along, anchors, outside, strict=True):
            found.append(own + anchor + factor * rest if id(parameter) in reached else own)
        return tuple(found)


@dataclass(frozen=True, eq=False)
class PulledSource:
    """Gammas and lambdas of the loss with its weight decay.

    Attributes:
        source: Those of the loss.
        pull: Weight decay and memory.
    """

    source: EngineSource
    pull: Pull

    @cached_property
    def _images(self) -> Tensor:
        """Vᵀ θ and Vᵀ a, `[R, 2]`; θ and a, `[2, P]`, where the GGN itself was decomposed."""
        return self.source.basis.project(self.pull.vectors(self.source.basis.capture.dtype))

    @cached_property
    def _flat(self) -> Tensor:
        return self.source.basis.flatten(self.pull.vectors(self.source.basis.capture.dtype))

    def along(self, directions: Directions) -> Tensor:
        """Return e_kᵀ θ and e_kᵀ a, `[2, K]`."""
        if directions.vectors is not None:
            return self._flat @ directions.vectors.T
        return (self.source.rows(directions.evecs).T @ self._images / directions.evals.sqrt()[:, None]).T

    def gammas(self, directions: Directions) -> Tensor:
        """Return the directional gradients `[N_grad, K]`."""
        plain = self.source.gammas(directions)
        return plain + self._share(directions, len(plain)) * self.along(directions)[0]

    def lambdas(self, directions: Directions) -> Tensor:
        """Return the directional curvatures `[N_ggn, K]`."""
        plain = self.source.lambdas(directions)
        return plain + self._share(directions, len(plain))

    def loss_gammas(self, directions: Directions) -> Tensor:
        """Return the directional gradients of the loss, `[K]`."""
        plain = self.source.loss_gammas(directions)
        return plain + self.pull.decay * self.along(directions)[0] if self.pull.decay else plain

    def loss_lambdas(self, directions: Directions) -> Tensor:
        """Return the directional curvatures of the loss, `[K]`."""
        return self.source.loss_lambdas(directions) + self.pull.decay

    def move(self, directions: Directions, lengths: Tensor) -> tuple[Tensor, ...]:
        """Return `Σ_k lengths[k, j] e_k`, `[J, *parameter.shape]` for each parameter."""
        return self.source.move(directions, lengths)

    def _share(self, directions: Directions, samples: int) -> float:
        """Return the decay's part in what belongs to one sample."""
        return self.pull.decay / (samples if directions.reduction == "sum" else 1)


@dataclass(frozen=True, eq=False)
class PulledDirections(DampedDirections):
    """Chosen directions with their dampings, and what draws the step beyond the loss.

    Attributes:
        pulled: Weight decay and memory, with the curvature that they are projected by.
        factor: Factor on what the step goes against where it has no direction.
    """

    pulled: PulledSource = field(kw_only=True)
    factor: float = field(kw_only=True)

    @classmethod
    def within(cls, damped: DampedDirections, pulled: PulledSource, keeps_all: bool) -> PulledDirections:
        """Return damped directions with what draws the step beyond the loss."""
        given = {entry.name: getattr(damped, entry.name) for entry in fields(DampedDirections)}
        strongest = float(damped.deltas.max()) if len(damped) else math.inf
        decay = pulled.pull.decay
        wanted = pulled.pull.rest or (keeps_all and decay > 0)
        made = cls(**given, pulled=pulled, factor=-1 / (decay + strongest) if wanted and decay + strongest > 0 else 0.0)
        vars(made).update({name: value for name, value in vars(damped).items() if name not in vars(made)})
        return made

    @cached_property
    def _along(self) -> Tensor:
        return self.pulled.along(self)

    @cached_property
    def coefficients(self) -> Tensor:
        """Length of the step along each direction, `a_k - (γ̄_k + λ̄_k a_k) / (λ̄_k + δ_k)`, `[K]`, param."""
        anchors = self._along[1]
        return anchors - (self.loss_gammas + self.loss_lambdas * anchors) / (self.loss_lambdas + self.deltas)

    def step(self) -> tuple[Tensor, ...]:
        """Return the step in parameter space, in the shapes of the group's parameters.

        Raises:
            NonFiniteError: The step has a NaN or an infinity in it.
        """
        pull, data = self.pulled.pull, self.pulled.source.data
        parameters, anchors = self._along
        outside = self.loss_gammas + pull.decay * anchors if pull.rest else pull.decay * (parameters + anchors)
        lengths = self.coefficients - anchors - self.factor * outside
        along = [vectors[0] for vectors in self.source.move(self, lengths[:, None])]
        gradient = data.gradient_in_parameters() if pull.rest else None
        rest = pull.outside(gradient, along[0].dtype)
        return checked_step(pull.beside(along, rest, self.factor, data.capture.reached))

"""Terms of a step beyond the loss along its directions: weight decay, anchor, and the orthogonal complement.

With L2 weight decay w and anchor a the step minimizes, along the chosen directions,

    gᵀs + ½ sᵀGs + ½ w ‖θ + s‖² + ½ Σ_k δ_k (e_kᵀ(s - a))².

Decay enters gradient and curvature alike, γ̄_k + w e_kᵀθ and λ̄_k + w, before a strategy sees them. Damping pulls the
step towards the anchor rather than towards zero. The anchor is μ times the previous step (SPRING: Goldshlager,
Abrahamsen, Lin 2024, arXiv 2401.10190), or the displacement of an iterate from its average, which the parameters are.
`step.py` has the length of the step along each direction.

In the orthogonal complement of the directions the only curvature is w, and the damping is the largest δ_k. The step
there is the anchor, a_⊥. If the criterion keeps every direction, weights decay there too,
`- w (θ + a)_⊥ / (w + max δ)`; if the gradient is followed there, the step is
`a_⊥ - (g + w (θ + a))_⊥ / (w + max δ)`. With all directions and one damping for all, that is the whole damped
Newton step `-(G + δ I)⁻¹ g`, even if the gradient is not in the span of V (Monte-Carlo samples).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ddn_core.engine.directions import Directions
from ddn_core.engine.gram import GroupCurvature
from ddn_core.engine.source import EngineSource


@dataclass(frozen=True, eq=False)
class StepTerms:
    """Weight decay and anchor of a group, and whether its step follows the gradient in the complement.

    Attributes:
        decay: Coefficient w of the L2 weight decay, loss/param².
        parameters: The group's parameters θ.
        anchor: Vector that damping pulls the step towards, in the shapes of the parameters; `None` for zero.
        include_complement: Whether the step also follows the gradient outside the chosen directions.
        is_displacement: Whether the anchor is the displacement of an averaged iterate.
    """

    decay: float
    parameters: tuple[Tensor, ...]
    anchor: tuple[Tensor, ...] | None = None
    include_complement: bool = False
    is_displacement: bool = False

    def anchor_in(self, dtype: torch.dtype) -> tuple[Tensor, ...] | None:
        """Return the anchor in a dtype, in the shapes of the parameters; `None` for zero."""
        if self.anchor is None:
            return None
        return tuple(part if part.dtype == dtype else part.to(dtype) for part in self.anchor)

    def vectors(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """Return θ and the anchor, `[2, *shape]` for each parameter."""
        return tuple(self.pairs(dtype))

    def pairs(self, dtype: torch.dtype) -> Iterator[Tensor]:
        """Yield θ and the anchor, `[2, *shape]`, for one parameter after the other, since they are copies."""
        anchors = self.anchor or [None] * len(self.parameters)
        for parameter, anchor in zip(self.parameters, anchors, strict=True):
            own = parameter.detach().to(dtype)
            yield torch.stack([own, torch.zeros_like(own) if anchor is None else anchor.to(dtype)])

    def complement_factor(self, deltas: Tensor, keeps_all: bool) -> float:
        """Return the factor on the slope in the complement, `-1 / (w + max δ)`; 0 if the step ignores that slope.

        Args:
            deltas: Dampings of the chosen directions, `[K]`.
            keeps_all: Whether the criterion keeps every direction.
        """
        strongest = self.decay + (float(deltas.max()) if len(deltas) else math.inf)
        is_followed = self.include_complement or (keeps_all and self.decay > 0)
        return -1 / strongest if is_followed and strongest > 0 else 0.0

    def slope_outside(self, gradient: Sequence[Tensor], gammas: Tensor, projections: Tensor, unit: float) -> float:
        """Return the derivative of the loss along the slope that the step follows in the complement, loss²/param².

        It is `g_⊥ᵀ (w (θ + a) + g)_⊥` for the gradient g of the loss.

        Args:
            gradient: g over the unit, in the shapes of the parameters.
            gammas: Inner products of the directions with g, `[K]`.
            projections: Inner products of the directions with θ and a, `[2, K]`.
            unit: Unit of the gradient.
        """
        gammas = gammas / unit
        square = inner(gradient, gradient) - gammas @ gammas
        points = [own + anchor for own, anchor in self.pairs(gradient[0].dtype)]
        product = inner(gradient, points) - gammas @ projections.sum(0)
        return unit * (unit * float(square) + self.decay * float(product))

    def start(
        self, own: Tensor | None, anchor: Tensor, gradient: Tensor | None, factor: float, unit: float = 1.0
    ) -> Tensor:
        """Return the part of a step that does not depend on the curvature, `a + factor (w (θ + a) + gradient)`.

        Args:
            own: θ, or its inner products with directions, `[...]`; `None` without weight decay.
            anchor: a, or its inner products with directions, `[...]`.
            gradient: Gradient of the loss over the unit that is followed in the complement, or its inner products;
                `None` for zero.
            factor: Factor on the slope in the complement, not positive.
            unit: Unit of the gradient.
        """
        start = anchor
        if factor and own is not None and self.decay:
            start = start + (factor * self.decay) * (own + anchor)  # `decay * own` may be out of range
        if factor and gradient is not None:
            start = start + (factor * unit) * gradient
        return start


@dataclass(frozen=True, eq=False)
class _Image:
    """Parameters and anchor, as a linear map sees them; computed when first read.

    Attributes:
        terms: Weight decay and anchor.
        dtype: Dtype of the images.
        zero: Returns the image of zero.
        map_all: Returns the images `[K, ...]` of vectors `[K, *shape]` for each parameter.
        map_one: Returns the image of one vector.
    """

    terms: StepTerms
    dtype: torch.dtype
    zero: Callable[[], Tensor]
    map_all: Callable[[tuple[Tensor, ...]], Tensor]
    map_one: Callable[[tuple[Tensor, ...]], Tensor]

    @cached_property
    def both(self) -> Tensor:
        """Images of θ and a, `[2, ...]`; that of θ is zero without weight decay, which alone reads it."""
        if self.terms.decay:
            return self.map_all(self.terms.vectors(self.dtype))
        return torch.stack([torch.zeros_like(self.anchor), self.anchor])

    @cached_property
    def anchor(self) -> Tensor:
        """Image of a, without that of θ where nothing reads it."""
        if self.terms.decay:
            return self.both[1]
        anchor = self.terms.anchor_in(self.dtype)
        return self.zero() if anchor is None else self.map_one(anchor)


@dataclass(frozen=True, eq=False)
class TermImages:
    """Parameters and anchor as the matrix of a group sees them.

    Attributes:
        curvature: Curvature of the group.
        terms: Weight decay and anchor.
    """

    curvature: GroupCurvature
    terms: StepTerms

    @cached_property
    def flat(self) -> _Image:
        """θ and a as vectors, `[P]`."""
        curvature, capture = self.curvature, self.curvature.capture
        return _Image(
            self.terms,
            capture.dtype,
            lambda: capture.zeros(curvature.size),
            curvature.flatten,
            lambda vector: curvature.flatten([part[None] for part in vector])[0],
        )

    @cached_property
    def projected(self) -> _Image:
        """Vᵀ θ and Vᵀ a, `[R]`."""
        curvature, capture = self.curvature, self.curvature.capture
        return _Image(
            self.terms,
            capture.dtype,
            lambda: capture.zeros(capture.columns),
            lambda vectors: curvature.project(vectors).T,
            curvature.project_one,
        )

    @property
    def seen(self) -> _Image:
        """The image that the smaller of GGN and Gram matrix multiplies."""
        return self.flat if self.curvature.is_ggn_smaller else self.projected

    def anchor_model(self) -> tuple[Tensor, Tensor]:
        """Return slope gᵀa and curvature aᵀGa of the loss along the anchor, scalars in loss."""
        curvature = self.curvature
        if curvature.is_ggn_smaller:
            matrix, gradient = curvature.ggn_and_gradient
            anchor = self.flat.anchor.to(matrix.dtype)
            return gradient @ anchor, anchor @ (matrix @ anchor)
        image = self.projected.anchor
        if (coefficients := curvature.gradient_coefficients) is not None:
            return coefficients @ image, image @ image
        return curvature.gradient @ self.flat.anchor, image @ image


@dataclass(frozen=True, eq=False)
class DecayedSource:
    """Derivatives along directions, of the loss with its weight decay.

    Attributes:
        source: Derivatives of the loss alone.
        images: Weight decay and anchor, and how the matrix of the group sees them.
    """

    source: EngineSource
    images: TermImages

    @property
    def terms(self) -> StepTerms:
        """Weight decay and anchor."""
        return self.images.terms

    def projections(self, directions: Directions) -> Tensor:
        """Return e_kᵀ θ and e_kᵀ a, `[2, K]`."""
        if directions.vectors is not None:
            return self.images.flat.both @ directions.vectors.T
        return self.images.projected.both @ self.source.rows(directions.evecs) / directions.evals.sqrt()

    def gammas(self, directions: Directions) -> Tensor:
        """Return the directional gradients `[N_grad, K]`."""
        plain = self.source.gammas(directions)
        return plain + self._decay_per_sample(directions, len(plain)) * self.projections(directions)[0]

    def lambdas(self, directions: Directions) -> Tensor:
        """Return the directional curvatures `[N_ggn, K]`."""
        plain = self.source.lambdas(directions)
        return plain + self._decay_per_sample(directions, len(plain))

    def loss_gammas(self, directions: Directions) -> Tensor:
        """Return the directional gradients of the loss, `[K]`."""
        plain = self.source.loss_gammas(directions)
        return plain + self.terms.decay * self.projections(directions)[0] if self.terms.decay else plain

    def loss_lambdas(self, directions: Directions) -> Tensor:
        """Return the directional curvatures of the loss, `[K]`."""
        return self.source.loss_lambdas(directions) + self.terms.decay

    def move(self, directions: Directions, lengths: Tensor) -> tuple[Tensor, ...]:
        """Return `Σ_k lengths[k, j] e_k`, `[J, *parameter.shape]` for each parameter."""
        return self.source.move(directions, lengths)

    def _decay_per_sample(self, directions: Directions, samples: int) -> float:
        return self.terms.decay / (samples if directions.reduction == "sum" else 1)


def inner(some: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
    """Return the inner product of two vectors in the shapes of the parameters, a scalar."""
    return torch.stack([(one * other).sum() for one, other in zip(some, others, strict=True)]).sum()

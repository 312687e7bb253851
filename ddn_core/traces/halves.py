"""Decrease of the loss on held-out samples: one half of the samples makes the step, the other half judges it.

The decrease that a quadratic model predicts for its own minimizer is too large: gradient noise looks like slope there,
and directions whose curvature the samples underestimate look too promising (Tatzel et al. 2025, arXiv 2410.14325).
With the gradients and the curvature of other samples, noise is as likely to harm as to help.

The half that makes the step must not use anything of the other half, not even its eigenvectors: directions fitted to
all samples would make the gradients of the two halves look unrelated. So each half has its own directions. They lie in
the span of the recorded directions, in which column (c, n) of V has the coordinates `√λ_k u_k[(c, n)]` and the gradient
of sample n has the coordinates `γ[n, k]`. Both are recorded. A step from half of the samples is noisier than a step
from all of them, so the expected decrease is that of a batch of half the size. Directions that are missing in the trace
are ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from ddn_core.api import Directions, GivenNorms
from ddn_core.engine import DampedDirections, eigendecompose

Answer = Callable[[Directions], tuple[Tensor, Tensor]]
"""Function that returns the indices of the kept directions, and their dampings."""


@dataclass(frozen=True, eq=False)
class Half:
    """One half of the samples, in the coordinates of K recorded directions.

    Attributes:
        columns: V of these samples, scaled so that `columns columnsᵀ` is their GGN, `[K, R/2]`, √loss/param.
        gradient: Gradient of their loss, weight decay included, `[K]`, loss/param.
        decay: Coefficient of the L2 weight decay, loss/param².
        basis: Directions of these samples alone, in its columns, `[K, K/2]`.
        directions: The directions of these samples, as a strategy receives them.
    """

    columns: Tensor
    gradient: Tensor
    decay: float
    basis: Tensor
    directions: Directions

    def step(self, answer: Answer) -> Tensor:
        """Return the damped Newton step of strategies on these samples, without `lr`, `[K]`, param."""
        kept, deltas = answer(self.directions)
        lengths = DampedDirections.of(self.directions.select(kept), deltas).coefficients
        return self.basis[:, kept] @ lengths.to(self.basis.dtype)

    def decrease(self, move: Tensor) -> float:
        """Return the decrease of the loss of these samples along a move `[K]`, by their quadratic model, loss."""
        curvature = (self.columns.T @ move).square().sum() + self.decay * move.square().sum()
        return -float(self.gradient @ move + 0.5 * curvature)


Split = tuple[Half, Half]


def expected_decrease(splits: Sequence[Split], answer: Answer, lr: float = 1.0) -> tuple[float, float]:
    """Return the expected decrease of the loss on held-out halves of the samples, and its standard deviation.

    One half makes the step, and the gradient and curvature of the other half give the decrease. Each split is used in
    both roles.

    Args:
        splits: Splits into halves, as `halves` returns them.
        answer: The choice of the strategies.
        lr: Factor on the step.

    Returns:
        Mean and standard deviation over the splits, in loss, where a split counts as the mean of its two roles. NaN if
        there is no split.
    """
    found = [sum(judge.decrease(lr * maker.step(answer)) for maker, judge in (one, one[::-1])) / 2 for one in splits]
    if not found:
        return float("nan"), float("nan")
    values = torch.tensor(found, dtype=torch.float64)
    return float(values.mean()), float(values.std(correction=min(1, len(found) - 1)))


@torch.no_grad()
def halves(directions: Directions, splits: int, seed: int = 0, decay: float = 0.0) -> list[Split]:
    """Return random splits of the samples into halves, or no split for a single sample or no direction.

    Args:
        directions: Directions with the gammas of each sample.
        splits: Number of splits.
        seed: Seed of the splits.
        decay: Coefficient of the L2 weight decay, which gammas and lambdas include, loss/param².
    """
    gammas, samples = directions.gammas, directions.context.samples
    if min(len(gammas), samples) < 2 or not len(directions):
        return []
    generator, found = Generator().manual_seed(seed), []
    for _ in range(splits):
        order = torch.randperm(len(gammas), generator=generator)
        columns = order if len(gammas) == samples else torch.randperm(samples, generator=generator)
        cuts = len(order) // 2, samples // 2
        found.append(
            (
                _half(directions, order[: cuts[0]], columns[: cuts[1]], decay),
                _half(directions, order[cuts[0] :], columns[cuts[1] :], decay),
            )
        )
    return found


def _half(directions: Directions, gradient: Tensor, curvature: Tensor, decay: float) -> Half:
    """Return the half with the samples at these positions of the gradient and of the GGN."""
    whole, count = directions.context, len(directions)
    rows = directions.evecs.double().reshape(-1, whole.samples, count)[:, curvature]  # [C, N/2, K]
    outputs, samples = rows.shape[:2]
    scale = (whole.samples / samples) ** 0.5
    columns = scale * (rows.reshape(-1, count) * directions.evals.double().sqrt()).T  # [K, C N/2]
    given = directions.gammas.double()[gradient]
    if directions.reduction == "sum":  # scale the sum to the number of all samples
        given = given * (len(directions.gammas) / len(gradient))
    total = given.sum(0) if directions.reduction == "sum" else given.mean(0)

    precision = torch.finfo(directions.evals.dtype).eps
    if columns.shape[1] <= count:
        spectrum = eigendecompose(columns.T @ columns, precision=precision)
        evecs, basis = spectrum.evecs, columns @ spectrum.evecs / spectrum.evals.sqrt()
    else:
        spectrum = eigendecompose(columns @ columns.T, precision=precision).padded(columns.shape[1])
        evecs, basis = columns.T @ spectrum.evecs / spectrum.evals.sqrt(), spectrum.evecs

    share = decay / (samples if directions.reduction == "sum" else 1)
    squares = (columns.T @ basis).square().reshape(outputs, samples, -1).sum(0)
    lambdas = (samples if directions.reduction == "mean" else 1) * squares + share
    outside = max(whole.gradient_norm**2 - float(directions.loss_gammas.double().square().sum()), 0.0)
    norms = GivenNorms(
        gradient=(outside + float(total.square().sum())) ** 0.5,
        parameters=whole.parameter_norm,
        curvature=float(columns.square().sum()) / max(min(columns.shape[1], whole.parameters), 1),
        sample_gradients=whole.sample_gradient_square,
        displacement=whole.norms.displacement,
    )
    dtype = directions.evals.dtype
    seen = Directions.from_tensors(
        spectrum.evals.to(dtype),
        evecs.to(dtype),
        (given @ basis).to(dtype),
        lambdas.to(dtype),
        directions.reduction,
        replace(whole, samples=samples, norms=norms),
        all_evals=spectrum.all_evals.to(dtype),
        loss_gammas=(total @ basis).to(dtype),
        loss_lambdas=(spectrum.evals + decay).to(dtype),
    )
    return Half(columns, total, decay, basis, seen)

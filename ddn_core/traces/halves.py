"""What a step is worth on samples that it has not seen: it is made of one half of them, and judged by the other.

The decrease that a quadratic model predicts for its own minimizer is too large: gradient noise looks like slope there,
and directions of low curvature in the samples look longer than they are (Tatzel et al. 2025, arXiv 2410.14325). With
derivatives of other samples, noise is as likely to help as to harm. The eigenvectors themselves stay those of all
samples, which leaves a part of the bias; and a step made of half of the samples is noisier than the one made of all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Generator, Tensor

from ddn_core.api import Directions
from ddn_core.engine import DampedDirections
from ddn_core.traces.measures import decreases

Answer = Callable[[Directions], tuple[Tensor, Tensor]]
"""Gives the indices of the kept directions, and their dampings."""


def expected_decrease(
    directions: Directions, answer: Answer, lr: float = 1.0, splits: int = 4, seed: int = 0
) -> tuple[float, float]:
    """Return the decrease of the loss that held-out halves of the samples expect, and its standard deviation.

    The strategies are asked with gammas and lambdas of one half; the step along the directions that they keep is judged
    by slope and curvature of the other half. Each split is used both ways; the mean is over all of them.

    Args:
        directions: Directions with gammas and lambdas of each sample.
        answer: What the strategies choose.
        lr: Factor on the step.
        splits: Number of random splits.
        seed: Seed of the splits.

    Returns:
        Mean and standard deviation over the splits, each a mean of its two ways, in loss; NaN for a single sample.
    """
    found = []
    for one, other in _splits(directions, splits, seed):
        ways = [_judged(made, judge, answer, lr) for made, judge in ((one, other), (other, one))]
        found.append(sum(ways) / 2)
    if not found:
        return float("nan"), float("nan")
    values = torch.tensor(found, dtype=torch.float64)
    return float(values.mean()), float(values.std(correction=min(1, len(found) - 1)))


def _judged(made: Directions, judge: Directions, answer: Answer, lr: float) -> float:
    kept, deltas = answer(made)
    step = DampedDirections.of(made.select(kept), deltas).coefficients
    return float(decreases(step, judge.loss_gammas[kept], judge.loss_lambdas[kept], lr).sum())


def _splits(directions: Directions, splits: int, seed: int) -> Iterator[tuple[Directions, Directions]]:
    """Yield the directions with the derivatives of one half of the samples, and with those of the other."""
    gammas, lambdas = directions.gammas, directions.lambdas
    if min(len(gammas), len(lambdas)) < 2:
        return
    generator = Generator().manual_seed(seed)
    for _ in range(splits):
        first = torch.randperm(len(gammas), generator=generator).to(gammas.device)
        second = first
        if len(lambdas) != len(gammas):
            second = torch.randperm(len(lambdas), generator=generator).to(lambdas.device)
        middles = len(first) // 2, len(second) // 2
        yield (
            of_samples(directions, first[: middles[0]], second[: middles[1]]),
            of_samples(directions, first[middles[0] :], second[middles[1] :]),
        )


def of_samples(directions: Directions, gradient: Tensor, curvature: Tensor) -> Directions:
    """Return the directions as they would be with the derivatives of some of the samples.

    Eigenvalues and eigenvectors are those of all samples. Of a sum-reduced loss, derivatives are scaled to all samples.

    Args:
        directions: Directions of all samples.
        gradient: Positions of the samples that gammas are taken over.
        curvature: Positions of the samples that lambdas are taken over.
    """
    gammas, lambdas, evecs = directions.gammas[gradient], directions.lambdas[curvature], directions.evecs
    total = len(directions.lambdas)
    if directions.reduction == "sum":
        gammas = gammas * (len(directions.gammas) / max(len(gradient), 1))
        lambdas = lambdas * (total / max(len(curvature), 1))
        means = gammas.sum(0), lambdas.sum(0)
    else:
        means = gammas.mean(0), lambdas.mean(0)
    if total and evecs.shape[0] % total == 0:
        rows = evecs.reshape(-1, total, evecs.shape[1])[:, curvature].reshape(-1, evecs.shape[1])
        evecs = rows / torch.linalg.vector_norm(rows, dim=0).clamp(min=torch.finfo(rows.dtype).tiny)
    return Directions.from_tensors(
        directions.evals,
        evecs,
        gammas,
        lambdas,
        directions.reduction,
        replace(directions.context, samples=len(curvature)),
        all_evals=directions.all_evals,
        loss_gammas=means[0],
        loss_lambdas=means[1],
    )

"""What the gain of a step could have been on other samples: resampling of γ and λ.

Along direction k, a step of length τ changes the loss by `γ̄ τ + ½ λ̄ τ²`; the gain is what it decreases,
`-γ̄ τ - ½ λ̄ τ²`. Resampling the samples with replacement (Efron 1979) tells how the gain varies with the samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from ddn_core.api import Directions


@dataclass(frozen=True, eq=False)
class ResampledGain:
    """Directional derivatives of the loss on resampled samples.

    Attributes:
        gammas: Directional gradients, `[B, K]`, loss/param.
        lambdas: Directional curvatures, `[B, K]`, loss/param².
    """

    gammas: Tensor
    lambdas: Tensor

    @classmethod
    def of(cls, directions: Directions, resamples: int, seed: int) -> ResampledGain:
        """Resample the samples of directions.

        Gradients and curvatures of a sample stay together where there are as many of the one as of the other. The
        samples are put in order first: neither the order in which they came nor the sign of a direction matters.
        """
        gammas, lambdas = directions.gammas, directions.lambdas
        generator = directions.context.generator(seed)
        oriented = gammas * gammas.mean(0).sign()
        if len(gammas) == len(lambdas):
            order = lambdas.argsort(0)
            order = order.gather(0, oriented.gather(0, order).argsort(stable=True, dim=0))
            weights = _weights(resamples, gammas, generator)
            means = weights @ gammas.gather(0, order), weights @ lambdas.gather(0, order)
        else:
            ordered = gammas.gather(0, oriented.argsort(0)), lambdas.sort(0).values
            first, second = (_weights(resamples, values, generator) @ values for values in ordered)
            means = first, second
        if directions.reduction == "sum":
            means = means[0] * len(gammas), means[1] * len(lambdas)
        return cls(*means)

    def quantile(self, lengths: Tensor, level: float) -> Tensor:
        """Return a quantile of the gain of steps of some lengths `[K]`, in loss, `[K]`."""
        gains = -self.gammas * lengths - 0.5 * self.lambdas * lengths.square()
        return gains.kthvalue(max(1, math.ceil(level * len(gains))), dim=0).values


def _weights(resamples: int, values: Tensor, generator: Generator) -> Tensor:
    """Return how often each sample is drawn, over their number, `[B, N]`."""
    import torch

    samples = len(values)
    drawn = torch.randint(samples, (resamples, samples), generator=generator)
    counts = torch.zeros(resamples, samples).scatter_add_(1, drawn, torch.ones(resamples, samples))
    return (counts / samples).to(dtype=values.dtype, device=values.device)

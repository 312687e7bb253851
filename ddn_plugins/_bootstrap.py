"""Estimates the gain of a step on other samples, by resampling γ and λ.

Along direction k, a step of length τ changes the loss by `γ̄ τ + ½ λ̄ τ²`. The gain is the decrease,
`-γ̄ τ - ½ λ̄ τ²`. Resampling the samples with replacement (Efron 1979) shows how the gain varies with the samples.
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
    """Directional derivatives of the loss on B resampled batches.

    Attributes:
        gammas: Directional gradients, `[B, K]`, loss/param.
        lambdas: Directional curvatures, `[B, K]`, loss/param².
    """

    gammas: Tensor
    lambdas: Tensor

    @classmethod
    def of(cls, directions: Directions, resamples: int, seed: int) -> ResampledGain:
        """Resample the samples of directions.

        Gradient and curvature of a sample are drawn together if there are as many gradients as curvatures. The samples
        are sorted first, so that the result depends neither on their order nor on the sign of a direction.
        """
        gammas, lambdas = directions.gammas, directions.lambdas
        generator = directions.context.generator(seed)
        oriented = gammas * gammas.mean(0).sign()
        if len(gammas) == len(lambdas):
            order = lambdas.argsort(0)
            order = order.gather(0, oriented.gather(0, order).argsort(stable=True, dim=0))
            weights = _resampling_weights(resamples, gammas, generator)
            means = weights @ gammas.gather(0, order), weights @ lambdas.gather(0, order)
        else:
            ordered = gammas.gather(0, oriented.argsort(0)), lambdas.sort(0).values
            first, second = (_resampling_weights(resamples, values, generator) @ values for values in ordered)
            means = first, second
        if directions.reduction == "sum":
            means = means[0] * len(gammas), means[1] * len(lambdas)
        return cls(*means)

    def quantile(self, lengths: Tensor, level: float) -> Tensor:
        """Return a quantile of the gain along each direction, `[K]`, in loss, for steps of given lengths."""
        gains = -self.gammas * lengths - 0.5 * self.lambdas * lengths.square()
        return gains.kthvalue(max(1, math.ceil(level * len(gains))), dim=0).values


def _resampling_weights(resamples: int, values: Tensor, generator: Generator) -> Tensor:
    """Return the weights of samples in resampled means, `[B, N]`: the number of draws of each sample, divided by N."""
    import torch

    samples = len(values)
    drawn = torch.randint(samples, (resamples, samples), generator=generator)
    counts = torch.zeros(resamples, samples).scatter_add_(1, drawn, torch.ones(resamples, samples))
    return (counts / samples).to(dtype=values.dtype, device=values.device)

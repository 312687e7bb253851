"""Directions to try strategies on: a typical spectrum, and difficult cases."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from ddn_core.api import Context, Directions, GivenNorms, Outcome


def typical_directions(
    count: int = 24,
    samples: int = 16,
    outputs: int = 3,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    reduction: Literal["mean", "sum"] = "mean",
    context: Context | None = None,
) -> Directions:
    """Return random directions that resemble those of a small network.

    A few eigenvalues lie above a bulk that spans five orders of magnitude. The curvatures of the samples vary around
    the eigenvalues. Directional gradients are mostly signal along the leading directions, and mostly noise along the
    others.

    Args:
        count: Number of directions K, at most `samples * outputs`.
        samples: Number of samples N.
        outputs: Number of outputs C for each sample.
        dtype: Dtype of all tensors.
        seed: Seed of the random numbers.
        reduction: Reduction of the loss over the samples, `"mean"` or `"sum"`.
        context: Context of the directions; by default that of the first step. Its norms are replaced by those of the
            directions.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    outliers = min(outputs, count)
    bulk = torch.logspace(-5, -0.5, count - outliers, dtype=torch.float64)
    evals = torch.cat([bulk, torch.linspace(2, 8, outliers, dtype=torch.float64)])
    evecs = torch.linalg.qr(normal(samples * outputs, count)).Q
    shares = normal(samples, count).square() + 0.1
    lambdas = evals * shares / shares.mean(0)
    gammas = evals.sqrt() * (normal(count) * (evals / evals.max()).sqrt() + normal(samples, count))
    if reduction == "sum":
        gammas, lambdas = gammas / samples, lambdas / samples
    made = Directions.from_tensors(evals.to(dtype), evecs.to(dtype), gammas.to(dtype), lambdas.to(dtype), reduction)
    context = context or Context(outputs=outputs, samples=samples, parameters=20 * count)
    mean = float(made.evals.double().mean())
    scale = samples if reduction == "sum" else 1
    norms = GivenNorms(
        gradient=float(made.loss_gammas.double().norm()),
        parameters=3.0,
        curvature=mean,
        sample_gradients=float((scale * made.gammas.double()).square().sum(1).mean()),
        displacement=(0.25, 0.5),
    )
    return Directions.from_tensors(
        made.evals, made.evecs, made.gammas, made.lambdas, reduction, context=replace(context, norms=norms)
    )


def difficult_directions(dtype: torch.dtype = torch.float64) -> dict[str, Directions]:
    """Return the extreme directions that the engine can produce, each under a description of its difficulty."""
    plain = typical_directions(dtype=dtype)
    equal = torch.full_like(plain.evals, 0.5)
    wide = torch.logspace(-9, 3, len(plain), dtype=dtype)
    none = torch.zeros_like(plain.gammas)
    return {
        "one direction": typical_directions(1, dtype=dtype),
        "two directions": typical_directions(2, dtype=dtype),
        "one sample": typical_directions(3, samples=1, dtype=dtype),
        "two samples": typical_directions(5, samples=2, dtype=dtype),
        "a sum-reduced loss": typical_directions(reduction="sum", dtype=dtype),
        "equal eigenvalues": changed(plain, evals=equal, lambdas=equal.expand_as(plain.lambdas).clone()),
        "eigenvalues over twelve orders": changed(plain, evals=wide, lambdas=wide.expand_as(plain.lambdas).clone()),
        "no gradient": changed(plain, gammas=none, gradient=0.0),
        "a gradient without noise": changed(plain, gammas=plain.gammas.mean(0).expand_as(plain.gammas).clone()),
        "more samples in the gradient": changed(plain, gammas=torch.cat([plain.gammas, plain.gammas.flip(0)])),
        "a later step": changed(plain, step=12345),
        "a step after another": changed(plain, step=1, last=outcomes()[0]),
    }


def no_directions(dtype: torch.dtype = torch.float64) -> Directions:
    """Return directions with K = 0."""
    plain = typical_directions(3, dtype=dtype)
    return plain.select([])


def changed(
    directions: Directions,
    evals: Tensor | None = None,
    gammas: Tensor | None = None,
    lambdas: Tensor | None = None,
    gradient: float | None = None,
    parameters: float | None = None,
    curvature: float | None = None,
    step: int | None = None,
    last: Outcome | None = None,
    loss: float | None = None,
    sample_gradients: float | None = None,
    displacement: tuple[float, float] | None = None,
) -> Directions:
    """Return directions with some of their quantities replaced."""
    context = directions.context
    norms = GivenNorms(
        gradient=context.gradient_norm if gradient is None else gradient,
        parameters=context.parameter_norm if parameters is None else parameters,
        curvature=context.mean_curvature if curvature is None else curvature,
        sample_gradients=context.sample_gradient_square if sample_gradients is None else sample_gradients,
        displacement=context.norms.displacement if displacement is None else displacement,
    )
    context = replace(
        context,
        norms=norms,
        step=context.step if step is None else step,
        last=last or context.last,
        loss=context.loss if loss is None else loss,
    )
    return Directions.from_tensors(
        directions.evals if evals is None else evals,
        directions.evecs,
        directions.gammas if gammas is None else gammas,
        directions.lambdas if lambdas is None else lambdas,
        directions.reduction,
        context,
    )


def in_units(directions: Directions, loss: float = 1.0, param: float = 1.0) -> Directions:
    """Return the directions of the same problem, with losses and parameters larger by constant factors."""
    context = directions.context
    return changed(
        directions,
        evals=directions.evals * (loss / param**2),
        gammas=directions.gammas * (loss / param),
        lambdas=directions.lambdas * (loss / param**2),
        gradient=context.gradient_norm * (loss / param),
        parameters=context.parameter_norm * param,
        curvature=context.mean_curvature * (loss / param**2),
        last=None if context.last is None else outcome_in_units(context.last, loss, param),
        loss=context.loss * loss,
        sample_gradients=context.sample_gradient_square * (loss / param) ** 2,
        displacement=(context.displacement_slope * loss, context.displacement_curvature * loss),
    )


def outcome_in_units(outcome: Outcome, loss: float = 1.0, param: float = 1.0) -> Outcome:
    """Return the outcome of the same step, with losses and parameters larger by constant factors."""
    return replace(
        outcome,
        loss_before=outcome.loss_before * loss,
        loss_after=None if outcome.loss_after is None else outcome.loss_after * loss,
        predicted_decrease=outcome.predicted_decrease * loss,
        total_predicted_decrease=outcome.total_predicted_decrease * loss,
        step_norm=outcome.step_norm * param,
        displacement_change=outcome.displacement_change * loss,
    )


def outcomes() -> list[Outcome]:
    """Return outcomes of a few steps: good, bad, as predicted, with a NaN loss, and without a move."""
    predicted, before = [0.5, 0.25, 0.125, 0.25, 0.0, 0.5], [2.0, 1.5, 1.75, 1.625, 1.5, 1.5]
    after = [1.5, 1.75, 1.625, float("nan"), 1.5, 1.0]
    norms = [1.0, 0.5, 0.25, 0.5, 0.0, 1.0]
    return [
        Outcome(step, 1.0, loss, later, decrease, decrease, norm, 5, displacement_change=0.25 * decrease)
        for step, (loss, later, decrease, norm) in enumerate(zip(before, after, predicted, norms, strict=True))
    ]

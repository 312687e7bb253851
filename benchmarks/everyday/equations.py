"""Everyday problems that fit a network to a differential equation, with derivatives of the network in the loss.

A sample has a point inside the domain and a point on its boundary. Its two residuals, of the equation inside and of the
condition on the boundary, are the output that the mean squared error compares with zero.
"""

from __future__ import annotations

from collections.abc import Callable
from math import pi

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.architectures.perceptron import perceptron
from benchmarks.everyday.data import generator
from benchmarks.everyday.problem import EverydayProblem, Samples, Task, relative_error

Residuals = Callable[[nn.Module, Tensor], Tensor]
"""Function of a network and points `[N, D]` that returns the residuals of an equation, `[N, 1]`."""


def cubic_equation() -> EverydayProblem:
    """Return `u³ - u'' = f` on an interval, with u = 0 at its ends, on 100 points."""

    def solution(x: Tensor) -> Tensor:
        return (pi * x).sin() + (3 * pi * x).sin() / 2

    def residuals(network: nn.Module, x: Tensor) -> Tensor:
        values: Tensor = network(x)
        bend = _derivatives(_derivatives(values, x), x)
        force = pi**2 * (pi * x).sin() + 4.5 * pi**2 * (3 * pi * x).sin() + solution(x) ** 3
        return values**3 - bend - force.detach()

    inside = torch.linspace(0, 1, 100)[:, None]
    ends = (torch.arange(100)[:, None] % 2).float()
    tested = torch.linspace(0, 1, 333)[:, None]
    return EverydayProblem(
        "u³ - u'' = f; tanh MLP 1-32-32-1",
        Samples(torch.cat([inside, ends], 1), torch.zeros(100, 1)),
        Samples(tested, solution(tested)),
        lambda: perceptron([1, 32, 32, 1], nn.Tanh),
        Task(_loss(residuals, weight=10.0), relative_error),
        batch_size=0,
        epochs=300,
    )


def heat_equation() -> EverydayProblem:
    """Return `∂u/∂t = 0.1 ∂²u/∂x²` on a square, with `u = sin(π x)` at the start, on 300 random points."""

    def solution(points: Tensor) -> Tensor:
        t, x = points.chunk(2, 1)
        return (-0.1 * pi**2 * t).exp() * (pi * x).sin()

    def residuals(network: nn.Module, points: Tensor) -> Tensor:
        slopes = _derivatives(network(points), points)
        bends = _derivatives(slopes[:, 1:], points)
        return slopes[:, :1] - 0.1 * bends[:, 1:]

    source = generator()
    inside, boundary = torch.rand(2, 300, 2, generator=source)
    boundary[:100, 0] = 0.0
    boundary[100:200, 1] = 0.0
    boundary[200:, 1] = 1.0
    tested = torch.rand(500, 2, generator=source)
    return EverydayProblem(
        "heat equation; tanh MLP 2-32-32-1",
        Samples(torch.cat([inside, boundary], 1), solution(boundary)),
        Samples(tested, solution(tested)),
        lambda: perceptron([2, 32, 32, 1], nn.Tanh),
        Task(_loss(residuals, weight=1.0), relative_error),
        batch_size=0,
        epochs=300,
    )


def _loss(residuals: Residuals, weight: float) -> Callable[[nn.Module, Samples], Tensor]:
    """Return the mean squared error of the residuals inside and, times a weight, on the boundary.

    The inputs of the samples are the point inside and the point on the boundary, `[N, 2 D]`; the targets are the values
    on the boundary, `[N, 1]`.
    """

    def loss(network: nn.Module, samples: Samples) -> Tensor:
        inside, boundary = samples.inputs.chunk(2, 1)
        with torch.enable_grad():
            inner = residuals(network, inside.detach().requires_grad_())
        output = torch.cat([inner, weight * network(boundary)], 1)
        return functional.mse_loss(output, torch.cat([torch.zeros_like(inner), weight * samples.targets], 1))

    return loss


def _derivatives(values: Tensor, points: Tensor) -> Tensor:
    """Return the derivatives of values `[N, 1]` by points `[N, D]`, as a part of autograd's graph."""
    (derivatives,) = torch.autograd.grad(values.sum(), points, create_graph=True)
    return derivatives

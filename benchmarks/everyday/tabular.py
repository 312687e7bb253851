"""Everyday problems with tables as data, and multi-layer perceptrons."""

from __future__ import annotations

from math import pi

import torch
from sklearn import datasets
from torch import Tensor, nn

from benchmarks.architectures.perceptron import perceptron
from benchmarks.everyday.data import generator, labels, numbers, split, with_wrong_labels
from benchmarks.everyday.problem import CLASSES, VALUES, YES_OR_NO, EverydayProblem


def quick() -> EverydayProblem:
    """Return a classification of a few points in two epochs, to test the benchmark itself."""
    inputs, targets = datasets.make_moons(60, noise=0.1, random_state=0)
    return EverydayProblem(
        "moons; tanh MLP 2-4-2",
        *split(numbers(inputs), labels(targets), 40),
        lambda: perceptron([2, 4, 2], nn.Tanh),
        CLASSES,
        batch_size=16,
        epochs=2,
    )


def wrong_labels() -> EverydayProblem:
    """Return a classification into four classes, with wrong labels in the training data."""
    inputs, targets = datasets.make_classification(900, 20, n_informative=8, n_classes=4, flip_y=0, random_state=1)
    training, test = split(numbers(inputs), labels(targets), 600)
    return EverydayProblem(
        "4 classes, 10 % of labels wrong; ReLU MLP 20-32-32-4",
        with_wrong_labels(training, 0.1, 4),
        test,
        lambda: perceptron([20, 32, 32, 4]),
        CLASSES,
    )


def raw_cancer() -> EverydayProblem:
    """Return a classification into two classes, with inputs as measured: from 1e-3 to 4e3."""
    inputs, targets = datasets.load_breast_cancer(return_X_y=True)
    return EverydayProblem(
        "breast cancer, raw inputs, BCE; ReLU MLP 30-32-32-1",
        *split(numbers(inputs), numbers(targets)[:, None], 400),
        lambda: perceptron([30, 32, 32, 1]),
        YES_OR_NO,
    )


def large_targets() -> EverydayProblem:
    """Return a regression with noise, and targets of a few thousand."""
    inputs, targets = datasets.make_friedman1(700, noise=1.0, random_state=0)
    return EverydayProblem(
        "friedman1, targets × 1e3; tanh MLP 10-32-32-1",
        *split(numbers(inputs), 1e3 * numbers(targets / targets.std())[:, None], 400),
        lambda: perceptron([10, 32, 32, 1], nn.Tanh),
        VALUES,
        batch_size=16,
    )


def robot_arm() -> EverydayProblem:
    """Return a regression with three outputs: the position of an arm's hand from the angles of its four joints."""
    angles = pi * (torch.rand(700, 4, generator=generator()) - 0.5)
    pitches = angles[:, 1:].cumsum(1)
    reach, height = pitches.cos().sum(1), pitches.sin().sum(1)
    positions = torch.stack([reach * angles[:, 0].cos(), reach * angles[:, 0].sin(), height], 1)
    return EverydayProblem(
        "robot arm, 3 outputs; GELU MLP 4-32-32-3",
        *split(angles, positions, 400),
        lambda: perceptron([4, 32, 32, 3], nn.GELU),
        VALUES,
        batch_size=0,
        epochs=200,
    )


def raw_wine() -> EverydayProblem:
    """Return a classification into three classes, with inputs as measured: from 0.1 to 1.7e3."""
    inputs, targets = datasets.load_wine(return_X_y=True)
    return EverydayProblem(
        "wine, raw inputs; ReLU MLP 13-16-16-3",
        *split(numbers(inputs), labels(targets), 130),
        lambda: perceptron([13, 16, 16, 3]),
        CLASSES,
        batch_size=16,
    )


def wrong_moons() -> EverydayProblem:
    """Return a classification into two classes, with wrong labels in the training data."""
    inputs, targets = datasets.make_moons(900, noise=0.2, random_state=0)
    training, test = split(numbers(inputs), numbers(targets)[:, None], 600)
    return EverydayProblem(
        "moons, 15 % of labels wrong, BCE; sigmoid MLP 2-64-1",
        with_wrong_labels(training, 0.15, 2),
        test,
        lambda: perceptron([2, 64, 1], nn.Sigmoid),
        YES_OR_NO,
    )


def small_targets() -> EverydayProblem:
    """Return a regression with targets of about 1e-3, and inputs of about 0.05."""
    inputs, targets = datasets.load_diabetes(return_X_y=True)
    return EverydayProblem(
        "diabetes, targets of 1e-3; GELU MLP 10-32-32-1",
        *split(numbers(inputs), 1e-5 * numbers(targets)[:, None], 300),
        lambda: perceptron([10, 32, 32, 1], nn.GELU),
        VALUES,
    )


def lorenz() -> EverydayProblem:
    """Return a regression with three outputs: the state of Lorenz's system after 0.2 units of time."""
    states = 10 * torch.randn(700, 3, generator=generator()) + torch.tensor([0.0, 0.0, 25.0])
    later = states
    for _ in range(20):
        later = _runge_kutta(later, 0.01)
    return EverydayProblem(
        "Lorenz's system, 3 outputs; tanh MLP 3-32-32-3",
        *split(states / 10, later / 10, 400),
        lambda: perceptron([3, 32, 32, 3], nn.Tanh),
        VALUES,
        batch_size=0,
        epochs=200,
    )


def wrong_quantiles() -> EverydayProblem:
    """Return a classification into four shells of a normal distribution, with wrong labels in the training data."""
    inputs, targets = datasets.make_gaussian_quantiles(n_samples=800, n_features=10, n_classes=4, random_state=0)
    training, test = split(numbers(inputs), labels(targets), 500)
    return EverydayProblem(
        "4 quantiles, 10 % of labels wrong; tanh MLP 10-64-4",
        with_wrong_labels(training, 0.1, 4),
        test,
        lambda: perceptron([10, 64, 4], nn.Tanh),
        CLASSES,
        batch_size=16,
    )


def dropout_friedman() -> EverydayProblem:
    """Return a regression with noise, for a perceptron with dropout."""
    inputs, targets = datasets.make_friedman2(700, noise=50.0, random_state=0)

    def build() -> nn.Module:
        first = [nn.Linear(4, 64), nn.GELU(), nn.Dropout(0.1)]
        second = [nn.Linear(64, 64), nn.GELU(), nn.Dropout(0.1)]
        return nn.Sequential(*first, *second, nn.Linear(64, 1))

    inputs, targets = (array / array.std(0) for array in (inputs, targets))
    return EverydayProblem(
        "friedman2; GELU MLP 4-64-64-1, dropout 0.1",
        *split(numbers(inputs), numbers(targets)[:, None], 400),
        build,
        VALUES,
    )


def _runge_kutta(states: Tensor, time: float) -> Tensor:
    """Return Lorenz's states `[N, 3]` after a short time, by the classical method of fourth order."""

    def slopes(states: Tensor) -> Tensor:
        x, y, z = states.unbind(1)
        return torch.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z], 1)

    first = slopes(states)
    second = slopes(states + time / 2 * first)
    third = slopes(states + time / 2 * second)
    fourth = slopes(states + time * third)
    return states + time / 6 * (first + 2 * second + 2 * third + fourth)

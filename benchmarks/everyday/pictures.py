"""Everyday problems with the digits of scikit-learn, pictures of 8 × 8 pixels with values from 0 to 16."""

from __future__ import annotations

from sklearn import datasets
from torch import Tensor, nn

from benchmarks.architectures.perceptron import perceptron
from benchmarks.everyday.data import labels, numbers, split
from benchmarks.everyday.problem import CLASSES, EverydayProblem


def digits_cnn() -> EverydayProblem:
    """Return digits for a network with ReLU and max-pooling."""
    pictures, targets = _digits()

    def build() -> nn.Module:
        first = [nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        second = [nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(64, 10))

    return EverydayProblem("digits; ReLU CNN, max-pooling", *split(pictures / 16, targets, 800), build, CLASSES)


def digits_sigmoid() -> EverydayProblem:
    """Return digits for a perceptron with sigmoids, whose gradients vanish with depth."""
    pictures, targets = _digits()
    return EverydayProblem(
        "digits; sigmoid MLP 64-32-32-10",
        *split(pictures.flatten(1) / 16, targets, 1000),
        lambda: perceptron([64, 32, 32, 10], nn.Sigmoid),
        CLASSES,
        batch_size=256,
        epochs=40,
    )


def raw_digits_cnn() -> EverydayProblem:
    """Return digits, with pixels as they are, for a network with GELU, a stride and average pooling."""
    pictures, targets = _digits()

    def build() -> nn.Module:
        first = [nn.Conv2d(1, 8, 3), nn.GELU(), nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.GELU()]
        return nn.Sequential(*first, nn.AvgPool2d(3, stride=2, padding=1), nn.Flatten(), nn.Linear(64, 10))

    return EverydayProblem(
        "digits, raw pixels; GELU CNN, strides",
        *split(pictures, targets, 1000),
        build,
        CLASSES,
        batch_size=256,
        epochs=40,
    )


def digits_dropout() -> EverydayProblem:
    """Return digits for a perceptron with dropout."""
    pictures, targets = _digits()

    def build() -> nn.Module:
        first = [nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.3)]
        second = [nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.3)]
        return nn.Sequential(*first, *second, nn.Linear(64, 10))

    return EverydayProblem(
        "digits; ReLU MLP 64-64-64-10, dropout 0.3", *split(pictures.flatten(1) / 16, targets, 800), build, CLASSES
    )


def digits_batch_norm() -> EverydayProblem:
    """Return digits for a network with batch normalization."""
    pictures, targets = _digits()

    def build() -> nn.Module:
        first = [nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)]
        second = [nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)]
        return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(64, 10))

    training_and_test = split(pictures / 16, targets, 800)
    return EverydayProblem("digits; ReLU CNN, batch norm", *training_and_test, build, CLASSES, epochs=8)


def _digits() -> tuple[Tensor, Tensor]:
    """Return all pictures, `[N, 1, 8, 8]`, and their digits."""
    pictures, targets = datasets.load_digits(return_X_y=True)
    return numbers(pictures).reshape(-1, 1, 8, 8), labels(targets)

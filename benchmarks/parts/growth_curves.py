"""Curves of the part `growth`: the number that grows, its values, and the expected exponents."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.cases import Case


@dataclass(frozen=True)
class Curve:
    """Cases that differ in one number.

    Attributes:
        title: Title.
        axis: Name of the number that grows: `N`, `width`, `depth` or `C`.
        points: Numbers and cases, ascending.
        expected: Exponents of time and memory that the mathematics predicts, in words.
    """

    title: str
    axis: str
    points: list[tuple[int, Case]]
    expected: str


_SAMPLES = (16, 32, 64, 128, 256, 512)
_WIDTHS = (1, 2, 4, 8, 16)
_CLASSES = (10, 32, 100, 316, 1000)
_LAYERS = (2, 4, 8, 16, 32, 64)
_RESIDUAL_LAYERS = (8, 20, 32, 56)

_OVER_N = "1 while backpropagation dominates, 2 when the Gram matrix does"
_OVER_DEPTH = "1: each layer adds its share"


def _over_samples(title: str, problem: str, curvature: str, expected: str, values: Iterable[int] = _SAMPLES) -> Curve:
    return Curve(title, "N", [(n, Case(problem, samples=n, curvature=curvature)) for n in values], expected)


CURVES = [
    _over_samples("MLP 784-256-128-10, exact", "mlp-784", "exact", _OVER_N),
    _over_samples("2C2D, exact", "2c2d", "exact", _OVER_N),
    _over_samples("3C3D, exact", "3c3d", "exact", _OVER_N),
    _over_samples("3C3D, one Monte-Carlo sample", "3c3d", "mc-1", _OVER_N),
    Curve(
        "MLP 64-128-64-10, exact, N = 32",
        "width",
        [(width, Case("mlp-64", samples=32, width=width)) for width in _WIDTHS],
        "at most 2: weights grow like the square of the width, and the Gram products of a linear layer like the width",
    ),
    Curve(
        "3C3D, exact, N = 4",
        "width",
        [(width, Case("3c3d", samples=4, width=width)) for width in _WIDTHS],
        "2: the part of V that belongs to a convolution is as large as its weight",
    ),
    Curve(
        "MLP of 64s, exact, N = 64",
        "depth",
        [(depth, Case("mlp-deep", depth=depth)) for depth in _LAYERS],
        _OVER_DEPTH,
    ),
    Curve(
        "ResNet, exact, N = 8",
        "depth",
        [(depth, Case("resnet-32", depth=depth)) for depth in _RESIDUAL_LAYERS],
        _OVER_DEPTH,
    ),
    Curve(
        "MLP 784-256-128-C, one Monte-Carlo sample, N = 64",
        "C",
        [(classes, Case("mlp-784", curvature="mc-1", classes=classes)) for classes in _CLASSES],
        "0 to 1: the number of columns stays N, and only the last layer grows",
    ),
    Curve(
        "3C3D, one Monte-Carlo sample, N = 32",
        "C",
        [(classes, Case("3c3d", curvature="mc-1", classes=classes)) for classes in _CLASSES],
        "0 to 1: the number of columns stays N, and only the last layer grows",
    ),
]
"""Curves of a full run."""

QUICK_CURVES = [
    _over_samples("MLP 64-128-64-10, exact", "mlp-64", "exact", _OVER_N, values=(2, 4)),
]
"""Every curve of a quick run."""

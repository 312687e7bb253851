"""Helpers for data: tensors of arrays, splits and wrong labels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.everyday.problem import Samples

_SEED = 7


def generator(seed: int = _SEED) -> torch.Generator:
    """Return a seeded generator on the CPU."""
    return torch.Generator().manual_seed(seed)


def numbers(array: Any) -> Tensor:
    """Return an array as a float tensor."""
    return torch.as_tensor(array, dtype=torch.get_default_dtype())


def labels(array: Any) -> Tensor:
    """Return an array of class numbers as an integer tensor."""
    return torch.as_tensor(array, dtype=torch.long)


def split(inputs: Tensor, targets: Tensor, training: int) -> tuple[Samples, Samples]:
    """Return training and test data, in a random order that is the same every time.

    Args:
        inputs: Inputs.
        targets: Targets.
        training: Number of training samples; the test data has all others.
    """
    order = torch.randperm(len(inputs), generator=generator())
    everything = Samples(inputs, targets)
    return everything[order[:training]], everything[order[training:]]


def with_wrong_labels(samples: Samples, share: float, classes: int) -> Samples:
    """Return samples of which a share, in expectation, has another label than its own.

    Args:
        samples: Samples with class numbers as targets.
        share: Share of the wrong labels.
        classes: Number of classes.
    """
    source = generator()
    shape = samples.targets.shape
    is_wrong = torch.rand(shape, generator=source) < share
    shift = torch.randint(1, classes, shape, generator=source)
    return Samples(samples.inputs, torch.where(is_wrong, (samples.targets + shift) % classes, samples.targets))

"""Samples in memory: split into training and test data, and divided into batches."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from torch import Generator, Tensor
    from torch.utils.data import DataLoader, Sampler

Samples: TypeAlias = "tuple[Tensor, Tensor]"
"""Inputs `[N, *input]` and targets `[N, *target]`."""

TEST_BATCH = 512
"""Number of samples in a test batch."""


def split(samples: Samples, test_fraction: float) -> tuple[Samples, Samples]:
    """Return training samples and test samples, drawn with torch's global generator.

    Args:
        samples: Inputs and targets.
        test_fraction: Fraction of test samples; there is at least one.
    """
    import torch  # here and below, so that the schema needs no torch

    inputs, targets = samples
    order = torch.randperm(len(inputs))
    test_count = max(1, round(test_fraction * len(inputs)))
    test, train = order[:test_count], order[test_count:]
    return (inputs[train], targets[train]), (inputs[test], targets[test])


def training_batches(samples: Samples, batch_size: int | None, noun: str = "training samples") -> Iterable[Samples]:
    """Return batches of equal size, drawn anew in each epoch without replacement; an incomplete last batch is dropped.

    The draws come from a generator that is seeded from torch's global generator.

    Args:
        samples: Inputs and targets.
        batch_size: Number of samples in a batch; `None` for a single batch of all samples in their order.
        noun: Noun for the samples in the error message.

    Raises:
        ValueError: There are fewer samples than `batch_size`.
    """
    import torch
    from torch.utils.data import BatchSampler, RandomSampler

    if batch_size is None:
        return [samples]
    count = len(samples[0])
    if count < batch_size:
        raise ValueError(f"batch_size is {batch_size}, but there are only {count} {noun}; lower batch_size")
    generator = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
    order = RandomSampler(range(count), generator=generator)
    return _loader(samples, BatchSampler(order, batch_size, drop_last=True), generator)


def test_batches(samples: Samples) -> Iterable[Samples]:
    """Return all samples in batches, in their order."""
    from torch.utils.data import BatchSampler, SequentialSampler

    return _loader(samples, BatchSampler(SequentialSampler(range(len(samples[0]))), TEST_BATCH, drop_last=False), None)


def _loader(samples: Samples, batches: Sampler[list[int]], generator: Generator | None) -> DataLoader[Any]:
    """Return a loader that indexes whole batches, which is much faster than collating samples one by one."""
    from torch.utils.data import DataLoader, TensorDataset

    return DataLoader(TensorDataset(*samples), sampler=batches, batch_size=None, generator=generator)

"""Sub-sampling: the choice of the samples in the gradient, in the GGN and in the directional curvatures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ddn_core.errors import ArgumentError


@dataclass(frozen=True)
class ChosenSamples:
    """The chosen samples of one batch: of the gradient, of the GGN and of the directional curvatures.

    Attributes:
        batch: Number of samples in the batch.
        grad_samples: Samples of the gradient.
        ggn_samples: Samples of the GGN.
        lambda_samples: Samples of the directional curvatures.
        propagated_samples: Samples whose columns are propagated; `None` for all.
    """

    batch: int
    grad_samples: Sequence[int]
    ggn_samples: Sequence[int]
    lambda_samples: Sequence[int]
    propagated_samples: Sequence[int] | None

    @property
    def columns_cover_gradient(self) -> bool:
        """True if columns are propagated for each sample of the gradient."""
        return self.propagated_samples is None or set(self.grad_samples) <= set(self.propagated_samples)

    @property
    def reselected_count(self) -> int:
        """Number of samples that are selected from those with columns; their factors are copied."""
        known = range(self.batch) if self.propagated_samples is None else self.propagated_samples
        return sum(
            len(some) for some in (self.ggn_samples, self.lambda_samples) if some != known and list(some) != list(known)
        )


@dataclass(frozen=True)
class Subsampling:
    """The samples of gradient, GGN and directional curvatures, as three independent choices.

    Directional curvatures on the same samples that gave the directions are biased upward (Tatzel et al. 2025).

    Attributes:
        grad: Indices of the samples of the gradient; all by default.
        ggn: Indices of the samples of the GGN, whose eigenvectors the directions are; all by default.
        lambdas: Indices of the samples of the directional curvatures; those of the GGN by default.
    """

    grad: Sequence[int] | None = None
    ggn: Sequence[int] | None = None
    lambdas: Sequence[int] | None = None

    def __post_init__(self) -> None:
        """Check the indices.

        Raises:
            ArgumentError: An index is negative, repeated or not an integer, or a list is empty.
        """
        for name in ("grad", "ggn", "lambdas"):
            object.__setattr__(self, name, checked_subsampling(f"subsampling_{name}", getattr(self, name)))

    def of_batch(self, samples: int) -> ChosenSamples:
        """Return the chosen samples of a batch with the given number of samples."""
        every = range(samples)
        ggn = every if self.ggn is None else self.ggn
        lambdas = ggn if self.lambdas is None else self.lambdas
        with_columns = None if len(ggn) == samples else sorted({*ggn, *lambdas})
        return ChosenSamples(samples, every if self.grad is None else self.grad, ggn, lambdas, with_columns)

    def check_in_batch(self, samples: int) -> None:
        """Raise an `ArgumentError` if an index is outside of the batch."""
        for name in ("grad", "ggn", "lambdas"):
            check_in_batch(f"subsampling_{name}", getattr(self, name), samples)


def checked_subsampling(name: str, indices: Sequence[int] | None) -> list[int] | None:
    """Check sample indices, and return them as a list; `None` stands for all samples.

    Raises:
        ArgumentError: An index is negative, repeated or not an integer, or the list is empty.
    """
    if indices is None:
        return None
    if (
        isinstance(indices, str)
        or not isinstance(indices, Sequence)
        or not all(isinstance(i, int) and not isinstance(i, bool) for i in indices)
    ):
        raise ArgumentError(f"{name} is {indices!r}. Use a list of sample indices, or None for all samples.")
    if not len(indices):
        raise ArgumentError(f"{name} is empty. Give at least one sample index, or None for all samples.")
    if min(indices) < 0:
        raise ArgumentError(f"{name} has the negative index {min(indices)}. Count samples from 0.")
    repeated = sorted({index for index in indices if list(indices).count(index) > 1})
    if repeated:
        raise ArgumentError(f"{name} has repeated indices {repeated}. Name each sample once.")
    return list(indices)


def check_in_batch(name: str, indices: Sequence[int] | None, samples: int) -> None:
    """Check that every index belongs to a sample of the batch.

    Raises:
        ArgumentError: An index is too large.
    """
    if indices is not None and max(indices) >= samples:
        raise ArgumentError(
            f"{name} has index {max(indices)}, but the batch has {samples} samples. Use indices from 0 to "
            f"{samples - 1}."
        )

"""scikit-learn's digits data set, and the base class of the problems that use it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, PositiveInt

from ddn_core.api import Problem, ProblemParts, Unit
from ddn_plugins.problems._batches import split, test_batches, training_batches
from ddn_plugins.problems._metrics import accuracy

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module


class Digits(Problem):
    """A problem on the 1797 digits of 8 × 8 pixels that come with scikit-learn (Alpaydin and Kaynak 1998)."""

    batch_size: PositiveInt = Field(128, description="Number of samples in a training batch.")
    test_fraction: Annotated[float, Unit("1")] = Field(
        0.2, gt=0, lt=1, description="Fraction of the samples used for the test."
    )

    def classification(self, model: Module, image_shape: tuple[int, ...]) -> ProblemParts:
        """Return the classification of the digits by a model whose input images have the given shape."""
        from torch.nn import CrossEntropyLoss  # here and below, so that the schema needs no torch

        images, classes = load_digits()
        train, test = split((images.reshape(-1, *image_shape), classes), self.test_fraction)
        return ProblemParts(
            model=model,
            loss_function=CrossEntropyLoss(),
            train_batches=training_batches(train, self.batch_size),
            test_batches=test_batches(test),
            metrics={"accuracy": accuracy},
        )


def load_digits() -> tuple[Tensor, Tensor]:
    """Return images `[1797, 64]` with pixels from 0 to 1, and classes `[1797]`."""
    import torch

    try:
        from sklearn.datasets import load_digits as load
    except ImportError as error:
        raise ImportError("the digits problems need scikit-learn: pip install 'ddn-core[train]'") from error
    bunch = load()
    return torch.tensor(bunch.data / 16, dtype=torch.float32), torch.tensor(bunch.target, dtype=torch.long)

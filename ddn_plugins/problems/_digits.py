"""scikit-learn's bundled digits, split and batched: what the digits problems share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, PositiveInt

from ddn_core.api import Problem, ProblemParts, Unit

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module


class Digits(Problem):
    """Classify the 1797 digits of 8 × 8 pixels that scikit-learn brings (Alpaydin and Kaynak 1998)."""

    batch_size: PositiveInt = Field(128, description="Number of samples in a training batch.")
    test_fraction: Annotated[float, Unit("1")] = Field(
        0.2, gt=0, lt=1, description="Fraction of the samples kept for the test."
    )

    def parts(self, model: Module, image_shape: tuple[int, ...]) -> ProblemParts:
        """Return the problem for a model that takes images of a shape."""
        import torch  # here and below, so that the schema is had without
        from torch.nn import CrossEntropyLoss
        from torch.utils.data import DataLoader, TensorDataset

        inputs, targets = load_digits()
        inputs = inputs.reshape(-1, *image_shape)
        order = torch.randperm(len(inputs))
        test_count = max(1, round(self.test_fraction * len(inputs)))
        test, train = order[:test_count], order[test_count:]
        if len(train) < self.batch_size:
            raise ValueError(f"batch_size is {self.batch_size}, but there are only {len(train)} training samples")
        return ProblemParts(
            model=model,
            loss_function=CrossEntropyLoss(),
            train_batches=DataLoader(
                TensorDataset(inputs[train], targets[train]),
                batch_size=self.batch_size,
                shuffle=True,
                drop_last=True,
                generator=torch.Generator().manual_seed(int(torch.randint(2**31, ()))),
            ),
            test_batches=DataLoader(TensorDataset(inputs[test], targets[test]), batch_size=512),
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


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return for each sample 1 if the largest output is that of the target class, else 0, `[N]`."""
    return (outputs.argmax(1) == targets).to(outputs.dtype)

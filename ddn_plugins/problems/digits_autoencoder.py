"""A deep autoencoder on the digits."""

from __future__ import annotations

from pydantic import Field, PositiveInt

from ddn_core.api import ProblemParts
from ddn_plugins._bounds import Width
from ddn_plugins.problems._batches import split, test_batches, training_batches
from ddn_plugins.problems._digits import Digits, load_digits
from ddn_plugins.problems._metrics import squared_error
from ddn_plugins.problems._networks import Activation, fully_connected


class DigitsAutoencoder(Digits, kind="digits-autoencoder"):
    """Reconstruct scikit-learn's digits (64 pixels) through a narrow layer, after Hinton and Salakhutdinov 2006.

    The layers after the narrow one mirror those before it: 64-100-50-25-10-25-50-100-64. The output is linear. The loss
    is the mean over samples and pixels; the metric `squared error` is the sum over pixels.
    """

    batch_size: PositiveInt = Field(
        32, description="Number of samples in a training batch; the exact GGN has 64 columns per sample."
    )
    hidden: list[Width] = Field(
        [100, 50, 25, 10],
        min_length=1,
        description="Widths of the hidden layers down to the narrow one, which is the last; mirrored after it.",
    )
    activation: Activation = Field("sigmoid", description="Activation after each hidden layer.")

    def load(self) -> ProblemParts:
        """Return network, loss and data."""
        from torch.nn import MSELoss

        model = fully_connected([64, *self.hidden, *reversed(self.hidden[:-1]), 64], self.activation)
        images, _ = load_digits()
        train, test = split((images, images), self.test_fraction)
        return ProblemParts(
            model=model,
            loss_function=MSELoss(),
            train_batches=training_batches(train, self.batch_size),
            test_batches=test_batches(test),
            metrics={"squared error": squared_error},
        )

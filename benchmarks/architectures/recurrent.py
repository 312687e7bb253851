"""Recurrent networks."""

from __future__ import annotations

from torch import Tensor, nn


class Recurrent(nn.Module):
    """A recurrent layer whose last state goes to a head."""

    def __init__(self, inputs: int, width: int, outputs: int, layer: type[nn.GRU] | type[nn.LSTM] = nn.LSTM) -> None:
        """Initialize the model.

        Args:
            inputs: Number of inputs at each position.
            width: Number of units of the recurrent layer.
            outputs: Number of outputs.
            layer: Class of the recurrent layer.
        """
        super().__init__()
        self.layer, self.head = layer(inputs, width, batch_first=True), nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs, `[N, outputs]`, for sequences `[N, T, inputs]`."""
        states, _ = self.layer(x)
        result: Tensor = self.head(states[:, -1])
        return result

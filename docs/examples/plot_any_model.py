"""
A transformer and a residual network
====================================

The curvature comes from autograd's graph of the loss, so a model may be any code. This example trains a small
transformer and a residual network with batch normalization for a few steps, and compares the spectra of their
generalized Gauss-Newton matrices (GGNs).
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy, relu

from ddn_core import DirectionalDampedNewton

torch.manual_seed(0)

# %%
# A transformer
# -------------
#
# At each position of a sequence of digits, the target is the largest digit so far. The output layer uses the weight of
# the embedding. The loss is a mean over all positions of all sequences, but a sample is a whole sequence: the output
# ``[N, T, V]`` is flattened just before the loss, and the optimizer reads N from the shape before that.

DIGITS, LENGTH, WIDTH = 10, 6, 24


class Transformer(nn.Module):
    """Two encoder layers, with an output layer that shares the weight of the embedding."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(DIGITS, WIDTH)
        self.positions = nn.Parameter(0.1 * torch.randn(LENGTH, WIDTH))
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 48, dropout=0.0, activation="gelu", batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2)

    def forward(self, numbers):
        hidden = self.layers(self.embedding(numbers) + self.positions)
        return hidden @ self.embedding.weight.T / WIDTH**0.5


def sequences(number):
    torch.manual_seed(number)
    inputs = torch.randint(0, DIGITS, (32, LENGTH))
    return inputs, inputs.cummax(1).values.flatten()


# %%
# A residual network
# ------------------
#
# In training mode, batch normalization uses the statistics of the batch, so that the output of each sample depends on
# all samples. The curvature is exact in this case, too; :doc:`/models` says what it costs.


class Residual(nn.Module):
    """A convolution, two residual blocks with batch normalization, and a linear layer."""

    def __init__(self, channels=8):
        super().__init__()
        self.first = nn.Conv2d(1, channels, 3, stride=2, padding=1)
        self.convolutions = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2))
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(2))
        self.last = nn.Linear(channels, 10)

    def forward(self, images):
        hidden = relu(self.first(images))
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            hidden = hidden + relu(norm(convolution(hidden)))
        return self.last(hidden.mean((2, 3)))


images, labels = load_digits(return_X_y=True)
images = torch.tensor(images / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)
labels = torch.tensor(labels)


def pictures(number):
    chosen = slice(64 * number, 64 * (number + 1))
    return images[chosen], labels[chosen]


# %%
# Training
# --------
#
# ``optimizer.backward(loss)`` takes the place of ``loss.backward()``. Everything else is as with other optimizers. With
# one Monte-Carlo sample, the curvature has one column for each sample of the batch.


def train(model, batches):
    optimizer = DirectionalDampedNewton(
        model.named_parameters(),
        [{"params": ["*"], "criterion": {"kind": "all"}, "damping": {"kind": "relative", "fraction": 0.1}}],
        lr=0.5,
        curvature={"kind": "ggn-mc", "mc_samples": 1, "seed": 0},
    )
    losses, spectra = [], []
    for number in range(12):
        inputs, targets = batches(number)
        optimizer.zero_grad()
        loss = cross_entropy(model(inputs).flatten(0, -2), targets)
        optimizer.backward(loss)
        optimizer.step()
        losses.append(loss.item())
        spectra.append(optimizer.last_step[0].all_evals.flip(0))
    return losses, spectra


runs = {}
for name, make_model, batches in (("transformer", Transformer, sequences), ("residual network", Residual, pictures)):
    torch.manual_seed(0)
    losses, spectra = runs[name] = train(make_model(), batches)
    print(f"{name:16} loss {losses[0]:.2f} in the first step, {losses[-1]:.2f} in the last")

# %%
# The spectra
# -----------
#
# Each line shows the eigenvalues of one step, the largest first. In both models, the leading eigenvalues grow.

figure, axes = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
for axis, (name, (_, spectra)) in zip(axes, runs.items(), strict=True):
    for place, color in ((0, "#0072b2"), (-1, "#d55e00")):
        evals = spectra[place].tolist()
        axis.semilogy(range(1, len(evals) + 1), evals, color=color, label=("first", "last")[place] + " step")
    axis.set(title=name, xlabel="index k, largest first", ylabel="eigenvalue λ_k in loss/param²")
    axis.legend()
plt.show()

"""
The default, in pictures
========================

``DirectionalDampedNewton(model.named_parameters())`` needs no setting. :doc:`/defaults` has its rule. This example
shows the rule at work on a small problem with noise: three classes, and 15 % of the labels drawn at random.
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import make_classification
from torch import nn

from ddn_core import DirectionalDampedNewton

inputs, labels = make_classification(
    3072, 10, n_informative=6, n_redundant=0, n_classes=3, class_sep=1.5, flip_y=0.15, random_state=0
)
inputs, labels = torch.tensor(inputs, dtype=torch.float32), torch.tensor(labels)
X, y, X_test, y_test = inputs[:1536], labels[:1536], inputs[1536:], labels[1536:]
loss_function = nn.CrossEntropyLoss()
EPOCHS, BATCH = 4, 64


def new_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 3))


def batches():
    generator = torch.Generator().manual_seed(0)
    for _ in range(EPOCHS):
        for indices in torch.randperm(len(X), generator=generator).split(BATCH):
            yield X[indices], y[indices]


@torch.no_grad()
def training_loss(model):
    return float(loss_function(model(X), y))


# %%
# Average and iterate
# -------------------
#
# The parameters are an average of an iterate. The optimizer's state has the displacement, the way from the average to
# the iterate. We record the loss over all training samples at both. ``last_step`` has the damping, and the
# ``state_dict`` of the damping has the two numbers whose maximum μ is the damping in units of T.

model = new_model()
optimizer = DirectionalDampedNewton(model.named_parameters())
at_average, at_iterate, dampings, numbers = [], [], [], []
for inputs, targets in batches():
    optimizer.zero_grad()
    optimizer.backward(loss_function(model(inputs), targets))
    numbers.append(optimizer.param_groups[0]["damping"].state_dict()["own"])
    optimizer.step()
    dampings.append(optimizer.last_step[0].uniform_damping)
    at_average.append(training_loss(model))
    with torch.no_grad():
        average = [parameter.clone() for parameter in model.parameters()]
        for parameter in model.parameters():
            parameter.add_(optimizer.state[parameter]["displacement"])
        at_iterate.append(training_loss(model))
        for parameter, value in zip(model.parameters(), average, strict=True):
            parameter.copy_(value)

figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
axes.semilogy(at_iterate, color="0.6", lw=1, label="at the iterate")
axes.semilogy(at_average, color="#d55e00", label="at the average: the parameters")
axes.set(xlabel="step", ylabel="loss of all training samples")
axes.legend()
plt.show()

# %%
# The iterate takes long steps, and the noise of each batch pulls it to and fro. In the average this noise cancels. So
# the steps can be long although the batches are small.
#
# The damping
# -----------
#
# μ is the larger of two numbers. The one about the model begins at 1 and decays, since no closure measures the error of
# the quadratic model here. From then on the noise decides: fresh batches compare iterate and average. The damping is μ
# times T, the mean squared gradient norm of the samples over the loss, which gives it the right unit.

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
left.semilogy([number["_model"] for number in numbers], color="#0072b2", label="about the model")
left.semilogy([number["_noise"] for number in numbers], color="#009e73", label="about the noise")
left.set(xlabel="step", ylabel="μ, in units T")
left.legend()
right.semilogy(dampings, color="#d55e00")
right.set(xlabel="step", ylabel="damping, loss/param²")
plt.show()

# %%
# Beside Adam
# -----------
#
# The same batches in the same order, with Adam at four rates. With a closure, the default also learns from the loss
# after each step.


def train(make_optimizer, has_closure=False):
    model = new_model()
    optimizer = make_optimizer(model)
    losses = [training_loss(model)]
    for inputs, targets in batches():
        optimizer.zero_grad()
        loss = loss_function(model(inputs), targets)
        if isinstance(optimizer, DirectionalDampedNewton):
            optimizer.backward(loss)
        else:
            loss.backward()
        if has_closure:
            with torch.no_grad():
                optimizer.step(lambda: loss_function(model(inputs), targets))  # noqa: B023
        else:
            optimizer.step()
        losses.append(training_loss(model))
    with torch.no_grad():
        accuracy = (model(X_test).argmax(1) == y_test).float().mean()
    return losses, float(accuracy)


runs = {
    f"Adam, lr {lr:g}": train(lambda model, lr=lr: torch.optim.Adam(model.parameters(), lr=lr))
    for lr in (1e-3, 3e-3, 1e-2, 3e-2)
}
runs["default"] = train(lambda model: DirectionalDampedNewton(model.named_parameters()))
runs["default, with a closure"] = train(lambda model: DirectionalDampedNewton(model.named_parameters()), True)
for name, (losses, accuracy) in runs.items():
    print(f"{name:24} training loss {losses[-1]:.3f}, test accuracy {accuracy:.3f}")

colors = ("0.8", "0.65", "0.5", "0.35", "#d55e00", "#0072b2")
figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
for (name, (losses, _)), color in zip(runs.items(), colors, strict=True):
    axes.semilogy(losses, color=color, lw=1.5, label=name)
axes.set(xlabel="step", ylabel="loss of all training samples")
axes.legend()
plt.show()

# %%
# A low training loss is what an optimizer is for. Where labels are wrong, a part of it is memory of these labels, and
# the test accuracy does not follow. Stop or regularize as with any other optimizer.

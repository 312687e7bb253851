"""
A training loop
===============

This training loop has two groups with different settings, a schedule, a rule for steps that raise the loss, and
checkpoints. If TensorBoard is installed, it also writes event files.
"""

# %%
# Model and data
# --------------

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ddn_core import DirectionalDampedNewton

torch.manual_seed(0)
images, digits = load_digits(return_X_y=True)
images, digits = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(digits)
loader = DataLoader(TensorDataset(images[:1437], digits[:1437]), batch_size=128, shuffle=True, drop_last=True)
model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
loss_function = nn.CrossEntropyLoss()

# %%
# The optimizer
# -------------
#
# The optimizer works without settings, too (:doc:`/defaults`). This loop chooses for itself. The first layer moves
# along its 40 leading directions, with momentum. The second layer uses all directions and weight decay. If a step
# raises the loss of its batch, the optimizer shortens it.

optimizer = DirectionalDampedNewton(
    model.named_parameters(),
    groups=[
        {
            "params": ["0.*"],
            "criterion": {"kind": "top-k", "k": 40},
            "damping": 0.1,
            "momentum": 0.5,
        },
        {
            "params": ["*"],
            "criterion": "all",
            "damping": 0.1,
            "weight_decay": 1e-4,
        },
    ],
    lr=0.5,
    step={"on_increase": "shorten"},
)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4)

# %%
# Four epochs
# -----------
#
# ``write_step`` from :mod:`ddn_core.integrations.tensorboard` accepts any ``SummaryWriter``.

try:
    from torch.utils.tensorboard import SummaryWriter

    from ddn_core.integrations.tensorboard import write_step
except ImportError:
    SummaryWriter = None

folder = tempfile.TemporaryDirectory()
writer = SummaryWriter(folder.name) if SummaryWriter else None
losses, norms = [], []
for epoch in range(4):
    for X, y in loader:
        optimizer.zero_grad()
        loss = loss_function(model(X), y)
        optimizer.backward(loss)
        with torch.no_grad():
            optimizer.step(lambda: loss_function(model(X), y))  # noqa: B023
        losses.append(loss.item())
        norms.append([float(report.step_norm) for report in optimizer.last_step])
        if writer and len(losses) % 10 == 0:
            write_step(writer, optimizer, len(losses), loss)
    scheduler.step()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, Path(folder.name) / "checkpoint.pt")
    accuracy = (model(images[1437:]).argmax(1) == digits[1437:]).float().mean()
    print(f"epoch {epoch + 1}: loss {losses[-1]:.4f}, test accuracy {accuracy:.3f}")

state = torch.load(Path(folder.name) / "checkpoint.pt", weights_only=True)
optimizer.load_state_dict(state["optimizer"])
if writer:
    writer.close()
folder.cleanup()

# %%
# Loss and step norms
# -------------------

report = optimizer.last_step
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
left.semilogy(losses, color="#0072b2")
left.set(xlabel="step", ylabel="loss of the batch")
for group, color in ((0, "#0072b2"), (1, "#d55e00")):
    right.semilogy([norm[group] for norm in norms], color=color, label=f"group {group}")
right.set(xlabel="step", ylabel="step norm, param")
right.legend()
plt.show()

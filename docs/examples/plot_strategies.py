"""
One problem, several dampings
=============================

To find out which damping suits a problem, try several: each is a table in the config, and everything else stays the
same. This example trains a small network on scikit-learn's digits with five of the dampings from
:doc:`/strategies/index`, and compares their losses and dampings.
"""

import matplotlib.pyplot as plt
import torch

from ddn_core import DirectionalDampedNewton
from ddn_plugins.problems.digits_mlp import DigitsMlp

DAMPINGS = {
    "constant": {"kind": "constant", "value": 0.1},
    "levenberg-marquardt": {"kind": "levenberg-marquardt", "initial": 1.0, "lowest": 0.05},
    "trust-region": {"kind": "trust-region", "radius": 0.5},
    "gradient-noise": {"kind": "sum", "of": [{"kind": "gradient-noise"}, {"kind": "constant", "value": 0.05}]},
    "schedule": {
        "kind": "schedule",
        "of": {"kind": "constant"},
        "field": "value",
        "values": {"shape": "exponential", "first": 1.0, "last": 0.05, "steps": 40},
    },
}

# %%
# Training
# --------
#
# Each damping trains for two passes over the data, from the same initial weights and with the same batches. The
# closure computes the loss after the step for the dampings that adapt to it. The optimizer does not call it for the
# others.
#
# The quadratic model predicts the loss of the batch itself well, even for a step that harms the other samples.
# Therefore the adaptive damping has a lower bound here, and the noise-driven damping has a constant added.


def train(damping):
    torch.manual_seed(0)
    problem = DigitsMlp(hidden=[32], batch_size=64).load()
    model, loss_function = problem.model, problem.loss_function
    group = {"params": ["*"], "criterion": {"kind": "top-k", "k": 60}, "damping": damping}
    optimizer = DirectionalDampedNewton(model.named_parameters(), [group], lr=0.5)
    losses, reports = [], []
    for _ in range(2):
        for inputs, targets in problem.train_batches:
            optimizer.zero_grad()
            loss = loss_function(model(inputs), targets)
            optimizer.backward(loss)
            optimizer.step(lambda inputs=inputs, targets=targets: loss_function(model(inputs), targets))
            losses.append(loss.item())
            reports.append(optimizer.last_step[0])
    return losses, reports


runs = {name: train(damping) for name, damping in DAMPINGS.items()}
for name, (losses, reports) in runs.items():
    print(f"{name:20} loss {sum(losses[-5:]) / 5:.3f}, last step of norm {reports[-1].step_norm:.2f}")

# %%
# Losses and dampings
# -------------------
#
# The left plot shows the loss, and the right plot the median damping of each step. The adaptive dampings depend on how
# well the quadratic model predicted the loss, the scheduled one on the step count, and the noise-driven one on the
# samples of each batch.

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
for name, (losses, reports) in runs.items():
    left.plot(losses, lw=1, label=name)
    right.plot([float(report.deltas.median()) for report in reports], lw=1, label=name)
left.set(xlabel="step", ylabel="loss of the batch", yscale="log")
right.set(xlabel="step", ylabel="median damping, loss/param²", yscale="log")
left.legend()
plt.show()

# %%
# You can do the same from a config file: ``--set`` replaces the damping, and ``ddn train`` writes a run folder for
# each.
#
# .. code-block:: console
#
#     $ ddn train docs/examples/digits.toml --out runs/noise --set 'groups.0.damping.kind="gradient-noise"'
#     $ ddn train docs/examples/digits.toml --out runs/region --set 'groups.0.damping.kind="trust-region"'

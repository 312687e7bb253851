"""
Spectrum and step during training
=================================

The GGN of a classifier has a few large eigenvalues, and the number of eigenvalues that matter decreases as the loss
falls. This example trains a small network on scikit-learn's digits with :class:`~ddn_core.DirectionalDampedNewton`.
After each step, it reads the step's report from ``optimizer.last_step``.
"""

import matplotlib.pyplot as plt
import torch

from ddn_core import DirectionalDampedNewton
from ddn_plugins.problems.digits_mlp import DigitsMlp

torch.manual_seed(0)

# %%
# Model, data and optimizer
# -------------------------
#
# The problem ``digits-mlp`` provides the model, the loss and the data. A batch has 64 samples with 10 outputs each, so
# the Gram matrix has R = 640 columns. One group takes all parameters. It keeps the eigenvalues that are at least 1e-4
# of the largest one, and damps each direction by a constant or by a tenth of the largest eigenvalue, whichever is
# larger.

problem = DigitsMlp(hidden=[64, 32], activation="tanh", batch_size=64).load()
model, loss_function = problem.model, problem.loss_function

optimizer = DirectionalDampedNewton(
    model.named_parameters(),
    groups=[
        {
            "params": ["*"],
            "criterion": {"kind": "relative-threshold", "ratio": 1e-4},
            "damping": {
                "kind": "maximum",
                "of": [{"kind": "constant", "value": 0.05}, {"kind": "relative", "fraction": 0.1}],
            },
        }
    ],
    lr=0.5,
)

# %%
# Training
# --------
#
# We make two passes over the data. ``last_step`` has a report for each group, and here there is one group.

reports, losses = [], []
for _ in range(2):
    for inputs, targets in problem.train_batches:
        optimizer.zero_grad()
        loss = loss_function(model(inputs), targets)
        optimizer.backward(loss)
        optimizer.step()
        losses.append(loss.item())
        reports.append(optimizer.last_step[0])

for step in (0, len(reports) - 1):
    report = reports[step]
    print(
        f"step {step + 1:>2}: loss {losses[step]:.3f}, {len(report.evals)} of {len(report.all_evals)} directions, "
        f"damping {report.deltas.max():.3g}, step norm {report.step_norm:.3g}"
    )

# %%
# The spectrum before and after
# -----------------------------
#
# ``all_evals`` are all eigenvalues, from which the criterion chose, in ascending order. Eigenvalues that are
# numerically zero may be slightly negative, and are left out here. The dots mark the smallest chosen eigenvalue.

EARLY, LATE = "#0072b2", "#d55e00"  # from the colour-blind-safe palette of Okabe and Ito

figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
for step, color in ((0, EARLY), (len(reports) - 1, LATE)):
    report = reports[step]
    descending = report.all_evals.flip(0)
    positive = descending[descending > 0]
    axes.plot(range(1, len(positive) + 1), positive.tolist(), color=color, label=f"step {step + 1}")
    axes.plot(len(report.evals), report.evals[0], "o", color=color)
axes.set(
    xlabel="index k, largest first",
    ylabel="eigenvalue λ_k in loss/param²",
    yscale="log",
    ylim=(1e-9, None),
    title="Spectrum of the GGN",
)
axes.legend()
plt.show()

# %%
# The step along each direction
# -----------------------------
#
# A coefficient is the length of the step along its direction, ``-γ_k / (λ_k + δ_k)``. Where the damping is larger than
# the eigenvalue, it shortens the step. Where it is smaller, the step is close to the Newton step.

report = reports[-1]
evals = report.evals.tolist()

figure, (upper, lower) = plt.subplots(2, 1, figsize=(7, 6), sharex=True, layout="constrained")
upper.plot(evals, report.coefficients.abs().tolist(), ".", color=EARLY)
upper.set(ylabel="|coefficient| in param", yscale="log", title=f"Directions of step {len(reports)}")
lower.plot(evals, report.deltas.tolist(), ".", color=LATE, label="damping δ_k")
lower.plot(evals, evals, color="0.6", label="eigenvalue λ_k")
lower.set(xlabel="eigenvalue λ_k in loss/param²", ylabel="damping in loss/param²", xscale="log", yscale="log")
lower.legend()
plt.show()

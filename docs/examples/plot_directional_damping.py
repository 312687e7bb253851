r"""
What directional damping is
===========================

Newton's method trusts a quadratic model of the loss everywhere, gradient descent trusts only its slope. Damping is how
one says how far the curvature is to be trusted. *Directional* damping says it for each direction by itself. This page
derives the step, and draws what it does.

The quadratic model
-------------------

Around parameters :math:`\theta` a step :math:`s` changes the loss by about

.. math:: q(s) = g^\top s + \tfrac12 s^\top G s

with gradient :math:`g` and generalized Gauss-Newton matrix :math:`G`, which is the Hessian but for the curvature of the
model itself, and has no negative eigenvalue. Let :math:`e_k` be its unit eigenvectors, :math:`\lambda_k` their
eigenvalues, and :math:`\gamma_k = e_k^\top g` the slope along them. In these coordinates :math:`s = \sum_k s_k e_k` the
model falls apart into one parabola for each direction:

.. math:: q(s) = \sum_k \gamma_k s_k + \tfrac12 \lambda_k s_k^2 .

The minimum of each is at :math:`-\gamma_k / \lambda_k`: the Newton step. Where :math:`\lambda_k` is small, it is long.
That is wanted if slope and curvature are known well, and harmful if not.
"""

# %%
# Here is a problem with two parameters: one direction of high curvature, one of low curvature. The samples of a batch
# do not agree on the slope along the second one, so its mean is known badly.

import matplotlib.pyplot as plt
import torch

torch.manual_seed(0)
G = torch.tensor([[1.0, 0.0], [0.0, 0.05]])  # eigenvectors are the axes
start = torch.tensor([2.0, 2.0])
truth = torch.tensor([2.0, 0.02])
slopes = truth + torch.tensor([0.3, 0.5]) * torch.stack([torch.randn(32), torch.randn(32)], dim=1)  # gammas, [N, K]
gamma, spread = slopes.mean(0), slopes.std(0) / 32**0.5

for k in range(2):
    print(f"direction {k}: curvature {G[k, k]:.2f}, slope {gamma[k]:.2f} ± {spread[k]:.2f}, in truth {truth[k]:.2f}")

# %%
# Three ways to damp
# ------------------
#
# Adding :math:`\delta_k \geq 0` to the curvature of each direction makes the parabolas steeper, and the steps shorter:
#
# .. math:: s_k = \frac{-\gamma_k}{\lambda_k + \delta_k} .
#
# * :math:`\delta_k = 0`: the Newton step. It goes far along the second direction, on a slope that is noise.
# * :math:`\delta_k = \delta`, the same for all: the usual damped Newton step, of Levenberg and Marquardt. What is
#   enough to tame the second direction slows down the first one.
# * :math:`\delta_k` for each direction: here, more where the samples do not agree. With :math:`\delta_k = \lambda_k
#   \,\mathrm{var}(\bar\gamma_k) / \bar\gamma_k^2` the step is the Newton step times
#   :math:`\bar\gamma_k^2 / (\bar\gamma_k^2 + \mathrm{var}(\bar\gamma_k))`, the share of the slope that is no noise.

curvature = G.diagonal()
steps = {
    "Newton, δ = 0": -gamma / curvature,
    "one damping, δ = 0.5": -gamma / (curvature + 0.5),
    "directional damping": -gamma / (curvature * (1 + spread**2 / gamma**2)),
}

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
for (name, step), color, marker in zip(steps.items(), ("#d55e00", "#009e73", "#0072b2"), "^sD", strict=True):
    left.annotate("", start + step, start, arrowprops={"arrowstyle": "->", "color": color, "lw": 2})
    left.plot(*(start + step), marker, color=color, label=name)
left.plot(*(start - truth / curvature), "k*", ms=11, label="minimum of the true loss")
left.plot(*start, "ko", label="parameters now")
left.set(xlabel="direction 0: high curvature", ylabel="direction 1: low curvature", title="The step")
left.legend(frameon=False, fontsize=8, loc="lower right")

deltas = torch.logspace(-3, 2, 100)
for k, color in enumerate(("#0072b2", "#d55e00")):
    kept = curvature[k] / (curvature[k] + deltas)
    right.semilogx(deltas, kept, color=color, label=f"direction {k}, λ = {curvature[k]:.2f}")
right.set(xlabel="damping δ", ylabel="share of the Newton step that is left", title="One damping bends all directions")
right.legend(frameon=False)
for ax in (left, right):
    ax.grid(alpha=0.25)

# %%
# Where the directions come from
# ------------------------------
#
# A network has too many parameters for :math:`G` to be formed. But with a batch of :math:`N` samples and :math:`C`
# outputs it has rank :math:`R = NC` at most, since :math:`G = V V^\top` with a column of :math:`V` for each sample and
# output. The matrix :math:`V^\top V`, of size :math:`R`, has the same nonzero eigenvalues, and with its eigenvectors
# :math:`u_k` the directions are :math:`e_k = V u_k / \sqrt{\lambda_k}` (Dangel, Tatzel, Hennig 2022). `ddn` gets all
# that from one backward pass, and does not form :math:`V` either.
#
# Slope and curvature along each direction are known for each sample of the batch: :math:`\gamma_{nk}` and
# :math:`\lambda_{nk}`. So it can be seen how well they are known. These are the directions of a network on digits in
# the midst of its training, recorded by ``ddn train --record``.

from ddn_core.plots import derivatives, noise, shares
from ddn_core.testing import digits_trace

group = digits_trace().steps[1].groups[0]

figure, axes = plt.subplots(1, 3, figsize=(14, 4), layout="constrained")
derivatives(group, axes[0])
noise(group, axes[1])
_ = shares(group, axes[2])

# %%
# Curvature falls over orders of magnitude, and slopes with it: at the left, the damping of 0.3 that the run used is
# above most eigenvalues. In the midst, slopes whose signal-to-noise ratio is about 1 are noise. At the right, a few
# directions carry most of the decrease.
#
# Two choices are left, and they are what `ddn` is for: *which directions* are followed, the criterion, and *how much
# each is damped*, the damping. :doc:`plot_replay` tries some on these very directions.

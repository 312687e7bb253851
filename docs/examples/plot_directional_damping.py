r"""
What directional damping is
===========================

Newton's method trusts a quadratic model of the loss everywhere. Gradient descent trusts only its slope. A damping sets
how far the curvature is trusted, and *directional* damping sets it separately for each direction. This page derives the
step and plots its effect.

The quadratic model
-------------------

Around parameters :math:`\theta` a step :math:`s` changes the loss by about

.. math:: q(s) = g^\top s + \tfrac12 s^\top G s

with gradient :math:`g` and generalized Gauss-Newton matrix :math:`G`, which is the Hessian without the curvature of the
model itself, and has no negative eigenvalues. Let :math:`e_k` be its unit eigenvectors, :math:`\lambda_k` their
eigenvalues, and :math:`\gamma_k = e_k^\top g` the slopes along them. In the coordinates :math:`s = \sum_k s_k e_k`, the
quadratic model separates into one parabola for each direction:

.. math:: q(s) = \sum_k \gamma_k s_k + \tfrac12 \lambda_k s_k^2 .

The minimum of each parabola is at :math:`-\gamma_k / \lambda_k`: the Newton step. Where :math:`\lambda_k` is small,
this step is long. A long step is right if slope and curvature are known well, and harmful otherwise.
"""

# %%
# Here is a problem with two parameters: one direction has high curvature, and one has low curvature. The samples of a
# batch disagree on the slope along the second direction, so the mean slope is uncertain.

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
# Adding :math:`\delta_k \geq 0` to the curvature of each direction makes the parabolas narrower and the steps shorter:
#
# .. math:: s_k = \frac{-\gamma_k}{\lambda_k + \delta_k} .
#
# * :math:`\delta_k = 0` is the Newton step. It goes far along the second direction, although the slope there is noise.
# * :math:`\delta_k = \delta`, the same for all directions, is the usual damped Newton step of Levenberg and Marquardt.
#   A damping that is large enough for the second direction also shortens the step along the first one.
# * A separate :math:`\delta_k` for each direction can be larger where the samples disagree. With :math:`\delta_k =
#   \lambda_k \,\mathrm{var}(\bar\gamma_k) / \bar\gamma_k^2`, the step is the Newton step times
#   :math:`\bar\gamma_k^2 / (\bar\gamma_k^2 + \mathrm{var}(\bar\gamma_k))`, the share of the slope that is not noise.

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
left.plot(*start, "ko", label="current parameters")
left.set(xlabel="direction 0: high curvature", ylabel="direction 1: low curvature", title="The step")
left.legend(frameon=False, fontsize=8, loc="lower right")

deltas = torch.logspace(-3, 2, 100)
for k, color in enumerate(("#0072b2", "#d55e00")):
    share = curvature[k] / (curvature[k] + deltas)
    right.semilogx(deltas, share, color=color, label=f"direction {k}, λ = {curvature[k]:.2f}")
right.set(xlabel="damping δ", ylabel="share of the Newton step", title="The same damping for all directions")
right.legend(frameon=False)
for ax in (left, right):
    ax.grid(alpha=0.25)

# %%
# Where the directions come from
# ------------------------------
#
# A network has too many parameters to form :math:`G`. But with :math:`N` samples and :math:`C` outputs, the rank of
# :math:`G` is at most :math:`R = NC`, since :math:`G = V V^\top`, where :math:`V` has a column for each sample and
# output. The matrix :math:`V^\top V`, of size :math:`R`, has the same nonzero eigenvalues. With its eigenvectors
# :math:`u_k`, the directions are :math:`e_k = V u_k / \sqrt{\lambda_k}` (Dangel, Tatzel, Hennig 2022). `ddn` computes
# all of this from one backward pass, without forming :math:`V`.
#
# For each direction, `ddn` computes slope and curvature of every sample of the batch: :math:`\gamma_{nk}` and
# :math:`\lambda_{nk}`. Their spread over the samples shows how uncertain the means are. Below are the directions of a
# network on the digits in the middle of its training, recorded by ``ddn train --record``.

from ddn_core.plots import derivatives, noise, shares
from ddn_core.testing import digits_trace

group = digits_trace().steps[1].groups[0]

figure, axes = plt.subplots(1, 3, figsize=(14, 4), layout="constrained")
derivatives(group, axes[0])
noise(group, axes[1])
_ = shares(group, axes[2])

# %%
# The left plot shows that the curvature falls by orders of magnitude, and the slopes fall with it. The damping of this
# run, 0.3, is larger than most eigenvalues. The middle plot shows which slopes are noise: their signal-to-noise ratio
# is about 1. The right plot shows that a few directions carry most of the decrease.
#
# Two choices remain, and `ddn` makes both of them pluggable: a *criterion* chooses which directions to follow, and a
# *damping* chooses how strongly to damp each of them. :doc:`plot_replay` tries some of each on these same directions.

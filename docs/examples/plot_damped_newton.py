"""
A damped Newton step, checked against a dense GGN
=================================================

:class:`~ddn_core.DirectionalDampedNewtonComputation` computes the directionally damped Newton step

.. math::
    s = \\sum_{k=1}^{K} \\frac{-\\bar\\gamma_k}{\\bar\\lambda_k + \\delta_k}\\, e_k

of a parameter group in one backward pass. This example uses a network that is small enough to form its generalized
Gauss-Newton matrix (GGN). It computes the step, reads the quantities in the formula, and compares the step with one
computed by :mod:`torch.autograd` and a dense eigendecomposition.
"""

import torch
from torch import Tensor
from torch.nn import Linear, MSELoss, ReLU, Sequential
from torch.nn.utils import parameters_to_vector

from ddn_core import DirectionalDampedNewtonComputation
from ddn_core.testing import dense_ggn

torch.manual_seed(0)

# %%
# Data, model and loss
# --------------------
#
# The batch has four samples, and the network has three linear layers. With 88 parameters, its GGN has shape ``[88,
# 88]``.

N = 4
D_IN, D_HIDDEN, D_OUT = 7, 5, 3

X = torch.rand(N, D_IN)
y = torch.rand(N, D_OUT)

model = Sequential(
    Linear(D_IN, D_HIDDEN),
    ReLU(),
    Linear(D_HIDDEN, D_HIDDEN),
    ReLU(),
    Linear(D_HIDDEN, D_OUT),
)
loss_function = MSELoss(reduction="mean")

loss = loss_function(model(X), y)

# %%
# Criterion and damping
# ---------------------
#
# A criterion chooses the directions, and a damping damps them. Both may be plain functions. The criterion receives all
# R eigenvalues of the Gram matrix in ascending order, here R = N · C = 12, and returns the indices of those to keep.


def select_top_k(evals: Tensor, k: int = 4) -> list[int]:
    """Return the indices of the k largest eigenvalues."""
    return list(range(len(evals)))[-k:]


# %%
# The damping receives the quantities of the K chosen directions and returns a damping for each of them. This one
# ignores their values. A damping that accounts for gradient noise would use the spread of ``gammas`` over the samples.

DAMPING = 1.0


def constant_damping(evals: Tensor, evecs: Tensor, gammas: Tensor, lambdas: Tensor) -> Tensor:
    """Return the same damping for every direction.

    Args:
        evals: Eigenvalues, ``[K]``.
        evecs: Eigenvectors of the Gram matrix, ``[R, K]``.
        gammas: Directional gradients, ``[N, K]``.
        lambdas: Directional curvatures, ``[N, K]``.
    """
    return torch.full_like(evals, DAMPING)


# %%
# A parameter group is a dictionary with parameters, criterion and damping.

group = {"params": list(model.parameters()), "criterion": select_top_k, "damping": constant_damping}

# %%
# One backward pass
# -----------------
#
# ``computation.backward`` runs the backward pass of the loss and computes the step of every group. ``.grad`` holds the
# gradient, as after any backward pass.

computation = DirectionalDampedNewtonComputation()
computation.backward(loss, [group])

newton_step = computation.get_result(group)

# %%
# The step is a list of tensors with the shapes of ``group["params"]``.

for parameter, move in zip(group["params"], newton_step, strict=True):
    print(f"parameter {list(parameter.shape)!s:>8}   step {list(move.shape)!s:>8}")

# %%
# The quantities in the step
# --------------------------
#
# ``get_directions`` returns the K = 4 chosen directions with their dampings. ``gammas[n]`` and ``lambdas[n]`` are the
# gradient and the curvature of sample n along each direction.

directions = computation.get_directions(group)

for name in ("evals", "evecs", "gammas", "lambdas", "deltas", "coefficients"):
    print(f"{name:<12} {list(getattr(directions, name).shape)}")

# %%
# The loss is a mean over the samples. The mean of ``lambdas`` over the samples is the eigenvalue, and the mean of
# ``gammas`` is the derivative of the loss along the direction.

print("evals          ", directions.evals)
print("mean of lambdas", directions.lambdas.mean(0))
print("mean of gammas ", directions.gammas.mean(0))
print("coefficients   ", directions.coefficients)

# %%
# ``eigenvectors`` forms the directions in parameter space: for a parameter of shape ``[...]``, a tensor ``[K, ...]``.
# Flattened and concatenated over the parameters, they are orthonormal.

vectors = torch.cat([part.flatten(1) for part in directions.eigenvectors()], dim=1)
print("vectors     ", list(vectors.shape))
print("orthonormal ", torch.allclose(vectors @ vectors.T, torch.eye(len(directions)), atol=1e-5))

# %%
# Comparison with a dense GGN
# ---------------------------
#
# :func:`ddn_core.testing.dense_ggn` differentiates the model output sample by sample and forms the whole matrix.

newton_step_flat = parameters_to_vector(newton_step)

gradient = parameters_to_vector(torch.autograd.grad(loss_function(model(X), y), list(model.parameters())))
ggn = dense_ggn(model, loss_function, X, y)
print("gradient", list(gradient.shape), "  GGN", list(ggn.shape))

# %%
# With its leading eigenpairs, the formula at the top of this page gives the same step.

evals, evecs = torch.linalg.eigh(ggn)
keep = select_top_k(evals)
evals, evecs = evals[keep], evecs[:, keep]

newton_step_dense = evecs @ (-(evecs.T @ gradient) / (evals + DAMPING))

if not torch.allclose(newton_step_flat, newton_step_dense, rtol=1e-5, atol=1e-7):
    raise ValueError("The damped Newton steps differ.")
print("The damped Newton steps match.")

# %%
# The same with strategies from a config
# --------------------------------------
#
# A dictionary with a ``kind`` names an installed strategy, as in a config file. The criterion ``top-k`` and the damping
# ``constant`` do the same as the two functions above. A computation can be used for any number of backward passes; each
# pass replaces the results of the one before.

configured = {
    "params": list(model.parameters()),
    "criterion": {"kind": "top-k", "k": 4},
    "damping": {"kind": "constant", "value": 1.0},
}

computation.backward(loss_function(model(X), y), [configured])

configured_step = parameters_to_vector(computation.get_result(configured))
if not torch.allclose(configured_step, newton_step_flat, rtol=1e-5, atol=1e-7):
    raise ValueError("The step of the configured strategies differs from that of the functions.")
print("The step of the configured strategies matches that of the functions.")

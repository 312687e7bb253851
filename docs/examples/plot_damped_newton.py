"""
A damped Newton step, checked against a dense GGN
=================================================

:class:`~ddn_core.DirectionalDampedNewtonComputation` computes the directionally damped Newton step

.. math::
    s = \\sum_{k=1}^{K} \\frac{-\\bar\\gamma_k}{\\bar\\lambda_k + \\delta_k}\\, e_k

of a parameter group in one backward pass. This example computes it for a network that is small enough to form the
generalized Gauss-Newton matrix (GGN), reads the quantities that the step is made of, and compares the step with the
one that :mod:`torch.autograd` and a dense eigendecomposition give.
"""

from copy import deepcopy

import torch
from backpack import backpack, extend
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
# Four samples, and a network with three linear layers. Its 88 parameters make a GGN of shape ``[88, 88]``.

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

# %%
# BackPACK needs its hooks on both, and they have to be there before the forward pass. Plain copies are kept for the
# comparison.

plain_model = deepcopy(model)
plain_loss_function = deepcopy(loss_function)

model = extend(model)
loss_function = extend(loss_function)

loss = loss_function(model(X), y)

# %%
# Criterion and damping
# ---------------------
#
# A criterion chooses the directions, a damping damps them. Both may be plain functions. The criterion is given all R
# eigenvalues of the Gram matrix in ascending order, here R = N · C = 12, and returns the indices of those to keep.


def select_top_k(evals: Tensor, k: int = 4) -> list[int]:
    """Return the indices of the k largest eigenvalues."""
    return list(range(len(evals)))[-k:]


# %%
# The damping is given the quantities of the K chosen directions and returns a damping for each of them. This one
# ignores what it is given. One that weighs the noise of the gradient would read the spread of ``gammas`` over the
# samples.

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
# A parameter group is a table of parameters, criterion and damping.

group = {"params": list(model.parameters()), "criterion": select_top_k, "damping": constant_damping}

# %%
# One backward pass
# -----------------
#
# The computation gives BackPACK an extension and a hook. The step of every group is computed before ``backward``
# returns; ``.grad`` holds the gradient, as after any backward pass.

computation = DirectionalDampedNewtonComputation()

with backpack(*computation.get_extensions(), extension_hook=computation.get_extension_hook([group])):
    loss.backward()

newton_step = computation.get_result(group)

# %%
# The step has the format of ``group["params"]``.

for parameter, move in zip(group["params"], newton_step, strict=True):
    print(f"parameter {list(parameter.shape)!s:>8}   step {list(move.shape)!s:>8}")

# %%
# What the step is made of
# ------------------------
#
# ``get_directions`` gives the K = 4 chosen directions with their dampings. One sample contributes the row
# ``gammas[n]`` to the gradient, and ``lambdas[n]`` to the curvature, along each direction.

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
# The directions in parameter space are formed on request, for each parameter of shape ``[...]`` as ``[K, ...]``. They
# are orthonormal once they are flattened and joined over the parameters.

vectors = torch.cat([part.flatten(1) for part in directions.eigenvectors()], dim=1)
print("vectors     ", list(vectors.shape))
print("orthonormal ", torch.allclose(vectors @ vectors.T, torch.eye(len(directions)), atol=1e-5))

# %%
# Comparison with a dense GGN
# ---------------------------
#
# :func:`ddn_core.testing.dense_ggn` differentiates the model output sample by sample and forms the whole matrix.

newton_step_flat = parameters_to_vector(newton_step)

plain_loss = plain_loss_function(plain_model(X), y)
gradient = parameters_to_vector(torch.autograd.grad(plain_loss, list(plain_model.parameters())))
ggn = dense_ggn(plain_model, plain_loss_function, X, y)
print("gradient", list(gradient.shape), "  GGN", list(ggn.shape))

# %%
# Its leading eigenpairs give the same step by the formula at the top of this page.

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
# A table with a ``kind`` stands for an installed strategy, as it does in a config file. The criterion ``top-k`` and the
# damping ``constant`` do what the two functions above do. The computation takes any number of backward passes; each
# replaces the results of the one before.

configured = {
    "params": list(model.parameters()),
    "criterion": {"kind": "top-k", "k": 4},
    "damping": {"kind": "constant", "value": 1.0},
}

loss = loss_function(model(X), y)
with backpack(*computation.get_extensions(), extension_hook=computation.get_extension_hook([configured])):
    loss.backward()

configured_step = parameters_to_vector(computation.get_result(configured))
if not torch.allclose(configured_step, newton_step_flat, rtol=1e-5, atol=1e-7):
    raise ValueError("The step of the config tables differs from that of the functions.")
print("The step of the config tables matches that of the functions.")

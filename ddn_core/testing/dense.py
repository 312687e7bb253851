"""Reference computations with dense per-sample gradients and GGNs from plain autograd.

Models and losses may be extended by BackPACK; the computations here ignore its hooks.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.functional import hessian, jacobian
from torch.func import functional_call
from torch.nn import Module


@dataclass(frozen=True, eq=False)
class DenseTwin:
    """Eigenpairs of a dense GGN, and the derivatives along the eigenvectors.

    Attributes:
        evals: All P eigenvalues, ascending, `[P]`.
        vectors: Eigenvectors in parameter space, as the columns of `[P, P]`.
        gammas: Directional gradients, `[N_grad, P]`.
        lambdas: Directional curvatures, `[N_ggn, P]`.
        reduction: Reduction of the loss.
    """

    evals: Tensor
    vectors: Tensor
    gammas: Tensor
    lambdas: Tensor
    reduction: str

    @classmethod
    def of(cls, gradients: Tensor, ggns: Tensor, reduction: str) -> DenseTwin:
        """Return eigenpairs and derivatives for the parameters of a group.

        Args:
            gradients: Gradients of the samples, `[N_grad, P]`.
            ggns: GGNs of the samples, `[N_ggn, P, P]`.
            reduction: Reduction of the loss, `"mean"` or `"sum"`.
        """
        evals, vectors = torch.linalg.eigh(ggns.mean(0) if reduction == "mean" else ggns.sum(0))
        lambdas = torch.einsum("pk,npq,qk->nk", vectors, ggns, vectors)
        return cls(evals, vectors, gradients @ vectors, lambdas, reduction)

    def step(self, indices: Sequence[int], deltas: Tensor | float) -> Tensor:
        """Return the damped Newton step along chosen directions, `[P]`.

        Args:
            indices: Indices of the directions.
            deltas: Their dampings.
        """
        chosen = list(indices)
        gammas, lambdas = (
            values[:, chosen].mean(0) if self.reduction == "mean" else values[:, chosen].sum(0)
            for values in (self.gammas, self.lambdas)
        )
        return self.vectors[:, chosen] @ (-gammas / (lambdas + deltas))


def per_sample_gradients(
    model: Module, loss_function: Module, inputs: Tensor, targets: Tensor, names: Sequence[str] | None = None
) -> Tensor:
    """Return the gradient of each sample's loss, not divided by N, `[N, P]`.

    Args:
        model: Model.
        loss_function: Loss with a mean or sum reduction.
        inputs: Inputs, samples along the first axis.
        targets: Targets, samples along the first axis.
        names: Names of the parameters, in order; by default all that are not frozen.
    """
    parameters = _parameters(model, names)
    model, loss_function = _without_hooks(model), _without_hooks(loss_function)
    rows = []
    for n in range(len(inputs)):

        def loss(*values: Tensor, n: int = n) -> Tensor:
            outputs = functional_call(model, dict(zip(parameters, values, strict=True)), (inputs[n : n + 1],))
            result: Tensor = loss_function(outputs, targets[n : n + 1])
            return result

        gradients = jacobian(loss, tuple(parameters.values()))  # type: ignore[no-untyped-call]
        rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
    return torch.stack(rows)


def per_sample_ggns(
    model: Module, loss_function: Module, inputs: Tensor, targets: Tensor, names: Sequence[str] | None = None
) -> Tensor:
    """Return the GGN of each sample's loss, `J_nᵀ H_n J_n`, not divided by N, `[N, P, P]`.

    The arguments are those of `per_sample_gradients`.
    """
    parameters = _parameters(model, names)
    model, loss_function = _without_hooks(model), _without_hooks(loss_function)
    ggns = []
    for n in range(len(inputs)):

        def output(*values: Tensor, n: int = n) -> Tensor:
            result: Tensor = functional_call(model, dict(zip(parameters, values, strict=True)), (inputs[n : n + 1],))
            return result

        def loss(outputs: Tensor, n: int = n) -> Tensor:
            result: Tensor = loss_function(outputs, targets[n : n + 1])
            return result

        outputs = output(*parameters.values()).detach()
        count = outputs.numel()
        blocks = jacobian(output, tuple(parameters.values()))  # type: ignore[no-untyped-call]
        derivative = torch.cat([block.reshape(count, -1) for block in blocks], dim=1)  # [C, P]
        curvature = hessian(loss, outputs).reshape(count, count)  # type: ignore[no-untyped-call]
        ggns.append(derivative.T @ curvature @ derivative)
    return torch.stack(ggns)


def dense_ggn(
    model: Module,
    loss_function: Module,
    inputs: Tensor,
    targets: Tensor,
    names: Sequence[str] | None = None,
    subsampling: Sequence[int] | None = None,
) -> Tensor:
    """Return the generalized Gauss-Newton matrix of the loss, `[P, P]`, with the loss's reduction over samples.

    Args:
        model: Model.
        loss_function: Loss with a mean or sum reduction.
        inputs: Inputs, samples along the first axis.
        targets: Targets, samples along the first axis.
        names: Names of the parameters, in order; by default all that are not frozen.
        subsampling: Indices of the samples; all by default.
    """
    chosen = list(range(len(inputs)) if subsampling is None else subsampling)
    ggns = per_sample_ggns(model, loss_function, inputs[chosen], targets[chosen], names)
    return ggns.mean(0) if loss_function.reduction == "mean" else ggns.sum(0)


def dense_twin(
    model: Module,
    loss_function: Module,
    inputs: Tensor,
    targets: Tensor,
    names: Sequence[str] | None = None,
    subsampling_grad: Sequence[int] | None = None,
    subsampling_ggn: Sequence[int] | None = None,
) -> DenseTwin:
    """Return eigenpairs of the dense GGN, and the derivatives along the eigenvectors.

    The arguments are those of `dense_ggn`, with separate sub-samples for gradient and GGN.
    """
    every = list(range(len(inputs)))
    grad = every if subsampling_grad is None else list(subsampling_grad)
    ggn = every if subsampling_ggn is None else list(subsampling_ggn)
    gradients = per_sample_gradients(model, loss_function, inputs[grad], targets[grad], names)
    ggns = per_sample_ggns(model, loss_function, inputs[ggn], targets[ggn], names)
    return DenseTwin.of(gradients, ggns, "mean" if loss_function.reduction == "mean" else "sum")


def _parameters(model: Module, names: Sequence[str] | None) -> dict[str, Tensor]:
    named = dict(model.named_parameters())
    chosen = [name for name, parameter in named.items() if parameter.requires_grad] if names is None else list(names)
    return {name: named[name].detach() for name in chosen}


def _without_hooks(module: Module) -> Module:
    """Return a module with the same parameters and buffers, but no hooks."""
    twin = type(module).__new__(type(module))
    twin.__dict__.update(vars(module))
    twin._modules = {name: child and _without_hooks(child) for name, child in module._modules.items()}
    twin._forward_hooks, twin._backward_hooks = OrderedDict(), OrderedDict()
    return twin

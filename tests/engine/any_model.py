"""The engine and a slow, obvious twin, side by side: GGN and gradient of any model and loss.

The twin runs the model, differentiates each entry of its output by its own backward pass (the Jacobian `J`), and the loss
twice with respect to the output (the Hessian `H`). The GGN is `Jᵀ H J`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ddn_core.engine import CaptureSettings, CurvatureKind, PlanStore, WantedParameter, captured_backward, root_of
from ddn_core.engine.gram import GroupCurvature
from ddn_core.errors import CurvatureError

EXACT = 1e-10
"""Largest relative error of a GGN or a gradient in float64."""


def run(model: Callable[..., Any], *inputs: Any) -> Any:
    """Call the model on its inputs."""
    return model(*inputs)


def every(name: str) -> bool:
    """Choose each parameter."""
    return True


@dataclass
class Problem:
    """A model, a batch of data and a loss.

    Attributes:
        model: Model, in float64 unless `to` has changed that.
        inputs: Arguments of `compute` beside the model.
        targets: Second argument of the loss.
        loss: Loss of an output and targets.
        samples: Number of samples N; the rows of the output that belong to a sample are consecutive.
        compute: Function of model and inputs that returns the output, the first argument of the loss.
        wanted: Predicate on parameter names; the others are trainable as well, but the engine is not asked for them.
        wrap: Function that compiles or changes the model for the engine; the twin runs the model itself.
        tell_samples: Whether the engine is given the number of samples; otherwise it infers the number.
    """

    model: nn.Module
    inputs: tuple[Any, ...]
    targets: Tensor
    loss: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy
    samples: int = 4
    compute: Callable[..., Tensor] = run
    wanted: Callable[[str], bool] = every
    wrap: Callable[[nn.Module], Any] = field(default=lambda model: model)
    tell_samples: bool = False

    def to(self, dtype: torch.dtype) -> Problem:
        """Return a copy in another precision."""

        def cast(value: Any) -> Any:
            return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value

        model = copy.deepcopy(self.model).to(dtype)
        return replace(
            self, model=model, inputs=tuple(cast(value) for value in self.inputs), targets=cast(self.targets)
        )

    def parameters(self) -> list[nn.Parameter]:
        """Return the parameters that the engine is asked for."""
        return [value for name, value in self.model.named_parameters() if value.requires_grad and self.wanted(name)]

    def outputs(self, model: Callable[..., Any] | None = None) -> Tensor:
        """Return the output; random masks such as dropout's are the same in each call."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.compute(self.model if model is None else model, *self.inputs)


@dataclass
class Dense:
    """GGN and gradient as dense arrays.

    Attributes:
        blocks: GGN of each sample, whose sum is the GGN of the loss, `[N, P, P]`.
        gradient: Gradient of the loss, `[P]`.
    """

    blocks: Tensor
    gradient: Tensor

    @property
    def ggn(self) -> Tensor:
        """GGN of the loss, `[P, P]`."""
        return self.blocks.sum(0)


def twin(problem: Problem) -> Dense:
    """Return the dense GGN and gradient."""
    return _dense(*_derivatives(problem))


def aligned_twin(problem: Problem) -> Dense:
    """Return the dense matrix of the kind `ggn-aligned`, `(rᵀHr / |r|⁴) r rᵀ` in place of each H, and the gradient."""
    jacobian, slopes, hessians = _derivatives(problem)
    curvatures = torch.einsum("nc,ncd,nd->n", slopes, hessians, slopes)
    squares = slopes.square().sum(1)
    factors = torch.where(squares > 0, curvatures / squares.square(), 0.0)
    return _dense(jacobian, slopes, torch.einsum("n,nc,nd->ncd", factors, slopes, slopes))


def _dense(jacobian: Tensor, slopes: Tensor, hessians: Tensor) -> Dense:
    blocks = torch.einsum("ncp,ncd,ndq->npq", jacobian, hessians, jacobian)
    return Dense(blocks, torch.einsum("ncp,nc->p", jacobian, slopes))


def _derivatives(problem: Problem) -> tuple[Tensor, Tensor, Tensor]:
    """Return Jacobian `[N, C, P]`, gradient `[N, C]` and Hessian `[N, C, C]` of the loss, one backward pass an entry."""
    parameters, outputs = problem.parameters(), problem.outputs()
    rows = [
        _flat(torch.autograd.grad(entry, parameters, retain_graph=True, allow_unused=True), parameters)
        for entry in outputs.flatten()
    ]
    jacobian = torch.stack(rows).double().unflatten(0, (problem.samples, -1))  # [N, C, P]
    leaf = outputs.detach().requires_grad_(True)
    (slope,) = torch.autograd.grad(problem.loss(leaf, problem.targets), leaf, create_graph=True)
    second = [torch.autograd.grad(entry, leaf, retain_graph=True)[0].flatten() for entry in slope.flatten()]
    hessian = torch.stack(second).double().reshape(*jacobian.shape[:2], *jacobian.shape[:2])
    apart = hessian.diagonal(dim1=0, dim2=2).permute(2, 0, 1)  # [N, C, C]: the loss is a sum over samples
    assert torch.allclose(apart.square().sum(), hessian.square().sum())
    return jacobian, slope.detach().double().reshape(jacobian.shape[:2]), apart


def engine(problem: Problem, mc_samples: int = 0, kind: CurvatureKind | None = None, passes: int = 1) -> Dense:
    """Return the same from the engine's columns, in the order of the parameters.

    Args:
        problem: Problem whose loss is computed anew for each pass.
        mc_samples: Number of Monte-Carlo samples.
        kind: Kind of curvature.
        passes: Number of equal passes with the same plans; the result is that of the last one.
    """
    parameters, plans = problem.parameters(), PlanStore()
    wanted = {id(own): WantedParameter(f"parameter {place}", own, 0) for place, own in enumerate(parameters)}
    settings = CaptureSettings(root=root_of(mc_samples, kind))
    wrapped = problem.wrap(problem.model)
    buffers = [(buffer, buffer.clone()) for buffer in problem.model.buffers()]
    for _ in range(passes):
        for buffer, value in buffers:
            buffer.copy_(value)  # such as running statistics, so that each pass is the same
        loss = problem.loss(problem.outputs(wrapped), problem.targets)
        capture = captured_backward(loss, wanted, settings, plans, problem.samples if problem.tell_samples else None)
    curvature = GroupCurvature.of(capture, parameters)
    like = parameters[0]
    identity = torch.eye(len(curvature.formed()), dtype=like.dtype, device=like.device)
    columns = torch.cat([part.reshape(len(part), -1) for part in curvature.combine(identity)], dim=1)  # [R, P]
    own = columns.detach().double().unflatten(0, (problem.samples, -1))  # rows of a sample are consecutive
    gradient = curvature.unit * _flat(curvature.gradient_in_parameters(), parameters)
    return Dense(torch.einsum("nkp,nkq->npq", own, own), gradient.detach())


def engine_or_refusal(problem: Problem) -> Dense | str:
    """Return the engine's result, or the message of its refusal."""
    try:
        return engine(problem)
    except CurvatureError as refusal:
        return str(refusal)


def _flat(values: Any, parameters: list[nn.Parameter]) -> Tensor:
    """Return one vector of the values of all parameters; None is zero."""
    pairs = zip(values, parameters, strict=True)
    return torch.cat([(torch.zeros_like(like) if value is None else value).flatten() for value, like in pairs])


def error(actual: Tensor, expected: Tensor) -> float:
    """Return the error relative to the norm of what is expected; a NaN gives infinity."""
    actual, expected = actual.double(), expected.double()
    difference = float((actual - expected).norm() / expected.norm().clamp(min=1e-30))
    return difference if difference == difference else float("inf")


def check(problem: Problem, expected: Dense | None = None, tolerance: float = EXACT) -> None:
    """Compare the engine with the twin: GGN of each sample, GGN, gradient, `.grad` of all parameters, buffers.

    Args:
        problem: Problem that the engine solves.
        expected: Result of the twin, by default in the precision of the problem.
        tolerance: Largest relative error.
    """
    plain = copy.deepcopy(problem.model)
    own = replace(problem, model=plain)
    own.loss(own.outputs(own.wrap(plain)), own.targets).backward()
    expected = expected or twin(replace(problem, model=copy.deepcopy(problem.model)))
    assert float(expected.ggn.norm()) > 1e-4  # a saturated softmax leaves nothing to compare
    actual = engine(problem)
    assert error(actual.ggn, expected.ggn) < tolerance
    assert error(actual.blocks, expected.blocks) < tolerance
    assert error(actual.gradient, expected.gradient) < tolerance
    for (name, ours), theirs in zip(problem.model.named_parameters(), plain.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None), name
        if ours.grad is not None and theirs.grad is not None:
            rounding = 16 * torch.finfo(ours.dtype).eps
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=rounding, atol=rounding * float(theirs.grad.norm()))
    for (name, buffer), once in zip(problem.model.named_buffers(), plain.buffers(), strict=True):
        assert torch.equal(buffer, once), name  # the model ran once

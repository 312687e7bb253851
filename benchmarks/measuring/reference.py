"""Reference step in float64 from plain autograd, without the engine: it forms every matrix."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from benchmarks.cases import Case
from benchmarks.measuring.failure import failure_of
from benchmarks.problems import Problem, make_problem, parameter_groups
from benchmarks.sides import SIDES

_DAMPING = 1.0
_DIRECTIONS = {"top-10": 10, "all": None}


def reference_steps(problem: Problem, grouping: str) -> dict[str, Tensor]:
    """Return the damped Newton step of all groups for each criterion, concatenated, `[P]`.

    Let `V = Jᵀ S / √N`, where J holds the gradients of the model outputs, and `S Sᵀ = diag(p) - p pᵀ` is the Hessian of
    the cross-entropy at probabilities p. A group has the Gram matrix `VᵀV = U Λ Uᵀ`, and its step along the chosen
    directions is `-V U Λ⁻¹ (Λ + 1)⁻¹ Uᵀ Vᵀ g`.

    Args:
        problem: Problem, which is not changed.
        grouping: `one-group` or `per-layer`.
    """
    model, inputs = deepcopy(problem.model).double(), problem.inputs.double()
    groups = parameter_groups(model, grouping)
    parameters = [parameter for group in groups for parameter in group]
    rows, gradients = _rows_and_gradients(model, inputs, problem.targets, parameters)
    steps: dict[str, list[Tensor]] = {criterion: [] for criterion in _DIRECTIONS}
    start = 0
    for group in groups:
        own = slice(start, start + len(group))
        for criterion, step in _group_steps(rows[own], gradients[own]).items():
            steps[criterion] += step
        start += len(group)
    return {criterion: torch.cat(step) for criterion, step in steps.items()}


def gradient_error(problem: Problem) -> float:
    """Return the relative error of the plain gradient in float32.

    Args:
        problem: Problem, which is not changed.
    """
    model = deepcopy(problem.model).double()
    exact = Problem(model, problem.loss_function, problem.inputs.double(), problem.targets)
    found, expected = (
        torch.cat([gradient.flatten() for gradient in torch.autograd.grad(own.loss(), list(own.model.parameters()))])
        for own in (problem, exact)
    )
    return float((found.double() - expected).norm() / expected.norm())


def errors_of_sides(case: dict[str, Any], sides: list[str]) -> dict[str, Any]:
    """Return the relative error of each side's float32 step for each criterion, or a failure.

    The entry `gradient` is the error of the plain gradient. It shows the error of evaluating the model in float32.

    Args:
        case: Fields of a case with exact curvature; its criterion is ignored.
        sides: Names of the sides.
    """
    problem = make_problem(Case(**case))
    references = reference_steps(problem, Case(**case).grouping)
    of_gradient = {"error": gradient_error(problem)}
    errors: dict[str, Any] = {}
    for criterion, reference in references.items():
        errors[criterion] = {"gradient": of_gradient}
        for name in sides:
            try:
                side = SIDES[name](replace(Case(**case), criterion=criterion))
                step = torch.cat([move.flatten() for move in side.direction()]).double()
            except Exception as error:
                errors[criterion][name] = failure_of(error)
            else:
                distance = float((step - reference).norm() / reference.norm())
                errors[criterion][name] = {"error": distance if isfinite(distance) else None}
    return errors


def _rows_and_gradients(
    model: torch.nn.Module, inputs: Tensor, targets: Tensor, parameters: list[torch.nn.Parameter]
) -> tuple[list[Tensor], list[Tensor]]:
    """Return Vᵀ, `[N C, p]`, and the gradient, `[p]`, for each parameter."""
    samples = len(inputs)
    with torch.no_grad():
        probabilities = model(inputs).softmax(1)
    classes = probabilities.shape[1]
    rows = [inputs.new_empty(samples, classes, parameter.numel()) for parameter in parameters]
    gradients = [inputs.new_zeros(parameter.numel()) for parameter in parameters]
    for n in range(samples):
        outputs = model(inputs[n : n + 1])[0]
        for c in range(classes):
            found = torch.autograd.grad(outputs[c], parameters, retain_graph=c + 1 < classes)
            for row, gradient in zip(rows, found, strict=True):
                row[n, c] = gradient.flatten()
        p = probabilities[n]
        root = p.sqrt().diag() - p[:, None] * p.sqrt()
        residual = p.clone()
        residual[targets[n]] -= 1
        for row, gradient in zip(rows, gradients, strict=True):
            gradient += residual @ row[n] / samples
            row[n] = root.T @ row[n] / samples**0.5
    return [row.flatten(0, 1) for row in rows], gradients


def _group_steps(rows: list[Tensor], gradients: list[Tensor]) -> dict[str, list[Tensor]]:
    gram = rows[0].new_zeros(len(rows[0]), len(rows[0]))
    projected = rows[0].new_zeros(len(rows[0]))
    for row, gradient in zip(rows, gradients, strict=True):
        gram += row @ row.T
        projected += row @ gradient
    evals, evecs = torch.linalg.eigh(gram)
    kept = int((evals > evals.max() * evals.numel() * torch.finfo(evals.dtype).eps).sum())
    steps = {}
    for criterion, directions in _DIRECTIONS.items():
        first = len(evals) - min(kept, directions or kept)
        top, basis = evals[first:], evecs[:, first:]
        coefficients = basis @ ((basis.T @ projected) / (top * (top + _DAMPING)))
        steps[criterion] = [-(row.T @ coefficients) for row in rows]
    return steps

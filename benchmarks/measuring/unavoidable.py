"""Operations that every exact step needs, each timed alone with plain torch and scipy, without the engine.

- columns: backpropagation of the C columns of the loss-Hessian root, see `columns`.
- gram: each layer's share of the Gram matrix, computed in the cheapest known way, see `layer_gram`.
- eigensolver: the ten largest eigenpairs, see `eigensolver`.
- gradient: a plain gradient step.
- product: V times one vector, by one more backward pass through the graph of the forward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.cases import Case
from benchmarks.measuring.columns import fastest_backpropagation, layers_with_columns, loss_hessian_root
from benchmarks.measuring.eigensolver import leading_eigenvectors
from benchmarks.measuring.layer_gram import fastest_way, total_gram
from benchmarks.measuring.timing import time_in_turns
from benchmarks.problems import Problem, make_problem
from benchmarks.sides import SIDES

OPERATIONS = ("columns", "gram", "eigensolver", "gradient", "product")


def time_operations(case: dict[str, Any], repetitions: int, device: str) -> dict[str, Any]:
    """Return the times of our step and of each operation, with the fastest solver and number of columns per call.

    Args:
        case: Fields of a case with exact curvature, one group and the ten leading directions.
        repetitions: Number of turns.
        device: Device of models and data.
    """
    ours, gradient = SIDES["ours"](Case(**case), device), SIDES["gradient"](Case(**case), device)
    at_a_time, backpropagate = fastest_backpropagation(make_problem(Case(**case), device))
    layers = layers_with_columns(make_problem(Case(**case), device))
    ways = [fastest_way(layer) for layer in layers]
    gram = total_gram(layers, ways)
    name, solve = leading_eigenvectors(gram, 10)
    functions: dict[str, Callable[[], Any]] = {
        "ours": ours.step,
        "columns": backpropagate,
        "gram": lambda: total_gram(layers, ways),
        "eigensolver": solve,
        "gradient": gradient.step,
        "product": vector_product(make_problem(Case(**case), device)),
    }
    before = {"ours": ours.restore, "gradient": gradient.restore}
    return time_in_turns(functions, repetitions, device, before) | {"solver": name, "at_a_time": at_a_time}


def vector_product(problem: Problem) -> Callable[[], Any]:
    """Return a function that multiplies V with a vector: `Jᵀ (S w)`, by a backward pass through the Jacobian J.

    Args:
        problem: Problem.
    """
    outputs, parameters = problem.model(problem.inputs), list(problem.model.parameters())
    root = loss_hessian_root(outputs)
    weights = torch.randn(root.shape[:2], dtype=root.dtype, device=root.device)

    def multiply() -> Any:
        combined = torch.einsum("cn,cno->no", weights, root)
        return torch.autograd.grad(outputs, parameters, combined, retain_graph=True)

    return multiply

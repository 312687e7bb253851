"""ViViT's damped Newton step, from the unmodified package `vivit-for-pytorch` 1.0.0.

ViViT calls `Tensor.symeig`, which PyTorch removed. It is replaced by a function that calls `torch.linalg.eigh`.
"""

from __future__ import annotations

import torch
from backpack import backpack, extend
from torch import Tensor

from benchmarks.cases import Case
from benchmarks.problems import parameter_groups
from benchmarks.sides.side import Side


def symeig(matrix: Tensor, eigenvectors: bool = False, upper: bool = True) -> tuple[Tensor, Tensor]:
    """Return eigenvalues, ascending, and eigenvectors of a symmetric matrix, as `Tensor.symeig` did.

    Args:
        matrix: Symmetric matrix.
        eigenvectors: Also compute eigenvectors; otherwise the second tensor is empty.
        upper: Read the upper triangle of the matrix, rather than the lower one.
    """
    triangle = "U" if upper else "L"
    if eigenvectors:
        evals, evecs = torch.linalg.eigh(matrix, UPLO=triangle)
        return evals, evecs
    return torch.linalg.eigvalsh(matrix, UPLO=triangle), matrix.new_empty(0)


def top_10(evals: Tensor) -> list[int]:
    """Return the indices of the ten largest of the ascending eigenvalues."""
    return list(range(evals.numel()))[-10:]


def every(evals: Tensor) -> list[int]:
    """Return all indices."""
    return list(range(evals.numel()))


def constant(evals: Tensor, evecs: Tensor, gammas: Tensor, lambdas: Tensor) -> Tensor:
    """Return a damping of 1 for each direction."""
    return torch.ones_like(evals)


class VivitSide(Side):
    """`vivit.DirectionalDampedNewtonComputation`, without its warning about small eigenvalues.

    Raises:
        ModuleNotFoundError: ViViT is not installed.
    """

    def __init__(self, case: Case, device: str = "cpu") -> None:
        super().__init__(case, device)
        self._model, self._loss_function = extend(self.problem.model), extend(self.problem.loss_function)
        import vivit

        torch.Tensor.symeig = symeig  # type: ignore[method-assign]  # the present attribute only raises an error
        self._computation = vivit.DirectionalDampedNewtonComputation(
            mc_samples_ggn=0 if case.curvature == "exact" else 1, warn_small_eigvals=0
        )
        self._groups = [
            {"params": parameters, "criterion": top_10 if case.criterion == "top-10" else every, "damping": constant}
            for parameters in parameter_groups(self.problem.model, case.grouping)
        ]

    def direction(self) -> list[Tensor]:
        """Return the damped Newton step."""
        computation = self._computation
        loss = self._loss_function(self._model(self.problem.inputs), self.problem.targets)
        with backpack(*computation.get_extensions(), extension_hook=computation.get_extension_hook(self._groups)):
            loss.backward()
        return [move for group in self._groups for move in computation.get_result(group)]

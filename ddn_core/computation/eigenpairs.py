"""`EighComputation`: eigenvalues of the GGN, and eigenvectors in parameter space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ddn_core.computation.base import Computation, chosen_directions
from ddn_core.computation.groups import Group
from ddn_core.computation.orthonormal import orthonormalized
from ddn_core.engine import Capture, Context, CurvatureKind, root_of
from ddn_core.plugins.resolve import as_criterion
from ddn_core.plugins.strategy import Criterion

Eigenpairs = tuple[Tensor, list[Tensor], tuple[str, ...]]


class EighComputation(Computation[Criterion, Eigenpairs]):
    """Computation of eigenpairs of the GGN of each parameter group.

    For a group with generalized Gauss-Newton matrix `G = V Vᵀ`, the result has the eigenpairs `G e_k = λ_k e_k` that
    the group's criterion chooses. The eigenvectors are orthonormal up to rounding, also close to the null space.

    A group is a table with `"params"` and `"criterion"`. One object works for any number of backward passes; each
    pass replaces the results of the one before.

    Example:
        >>> computation = EighComputation()
        >>> group = {"params": list(model.parameters()), "criterion": {"kind": "top-k", "k": 4}}
        >>> loss = loss_function(model(X), y)
        >>> computation.backward(loss, [group])
        >>> evals, evecs = computation.get_result(group)
    """

    def __init__(
        self,
        subsampling: Sequence[int] | None = None,
        mc_samples: int = 0,
        verbose: bool = False,
        warn_small_eigvals: float = 1e-4,
        *,
        seed: int | None = None,
        kind: CurvatureKind | None = None,
    ) -> None:
        """Choose the approximations of the GGN; none by default.

        Args:
            subsampling: Indices of the samples in the GGN; all by default. With a mean-reduced loss the GGN is the mean
                over these samples, with a sum-reduced one their sum. Error messages call this argument
                `subsampling_ggn`.
            mc_samples: Number of Monte-Carlo samples of the loss Hessian; 0, the default, for the exact loss Hessian.
            verbose: Print a line for each module of the pass and for each group.
            warn_small_eigvals: If positive, warn if a function as criterion selects numerically zero eigenvalues, which
                are dropped in any case. 0 silences the warning, and all positive values mean the same.
            seed: Seed of the Monte-Carlo samples; by default they come from torch's own generator.
            kind: Kind of curvature, such as `"ggn-aligned"`; by default `"ggn-mc"` with Monte-Carlo samples, `"ggn"`
                without.

        Raises:
            ArgumentError: A sample index is repeated, negative or not an integer, or the number of Monte-Carlo samples
                is negative or does not fit the kind.
        """
        super().__init__(verbose, root_of(mc_samples, kind), seed, warn_small_eigvals, subsampling_ggn=subsampling)

    def get_result(self, group: Mapping[str, Any]) -> tuple[Tensor, list[Tensor]]:
        """Return the chosen eigenvalues of a group, `[K]`, in loss/param², and the eigenvectors.

        The eigenvectors are a list with a tensor `[K, *parameter.shape]` for each parameter in `group["params"]`:
        `[part[k] for part in evecs]` is the eigenvector of `evals[k]`. The eigenpairs are in the order of the
        criterion's choice.

        Raises:
            NoResultError: No backward pass has computed eigenpairs for this group.
        """
        evals, evecs, _ = self._result(group)
        return evals, list(evecs)

    def _strategies(self, given: Mapping[str, Any], label: str) -> Criterion:
        return as_criterion(given["criterion"], label, self._warn)

    def _compute(self, capture: Capture, group: Group[Criterion], context: Context) -> Eigenpairs:
        directions = chosen_directions(capture, group, context)
        self._report_kept(group, len(directions), capture)
        vectors = orthonormalized(directions.eigenvectors(), directions.evals)
        return directions.evals, vectors, directions.fallbacks

    def _fallbacks(self, result: Eigenpairs) -> tuple[str, ...]:
        return result[2]

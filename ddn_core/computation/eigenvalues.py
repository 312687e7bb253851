"""`EigvalshComputation`: eigenvalues of the GGN."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ddn_core.computation.base import Computation
from ddn_core.computation.groups import Group
from ddn_core.engine import Capture, Context, CurvatureKind, group_eigenvalues, root_of

Eigenvalues = tuple[Tensor, tuple[str, ...]]


class EigvalshComputation(Computation[None, Eigenvalues]):
    """Computation of the eigenvalues of the GGN of each parameter group.

    For a group with generalized Gauss-Newton matrix `G = V Vᵀ`, the result has all R eigenvalues of the Gram matrix
    `VᵀV`: the nonzero eigenvalues of G, and zeros. No eigenvectors are computed.

    A group is a table with `"params"`. One object works for any number of backward passes; each pass replaces the
    results of the one before.

    Example:
        >>> computation = EigvalshComputation()
        >>> group = {"params": list(model.parameters())}
        >>> loss = loss_function(model(X), y)
        >>> computation.backward(loss, [group])
        >>> evals = computation.get_result(group)
    """

    _keys = ("params",)

    def __init__(
        self,
        subsampling: Sequence[int] | None = None,
        mc_samples: int = 0,
        verbose: bool = False,
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
            seed: Seed of the Monte-Carlo samples; by default they come from torch's own generator.
            kind: Kind of curvature, such as `"ggn-aligned"`; by default `"ggn-mc"` with Monte-Carlo samples, `"ggn"`
                without.

        Raises:
            ArgumentError: A sample index is repeated, negative or not an integer, or the number of Monte-Carlo samples
                is negative or does not fit the kind.
        """
        super().__init__(verbose, root_of(mc_samples, kind), seed, subsampling_ggn=subsampling)

    def get_result(self, group: Mapping[str, Any]) -> Tensor:
        """Return the eigenvalues of a group, all R of them, ascending, in loss/param².

        Numerically zero eigenvalues are not set to zero, so they can be slightly negative.

        Raises:
            NoResultError: No backward pass has computed eigenvalues for this group.
        """
        return self._result(group)[0]

    def _strategies(self, given: Mapping[str, Any], label: str) -> None:
        """Return no strategies: every eigenvalue is computed."""

    def _compute(self, capture: Capture, group: Group[None], context: Context) -> Eigenvalues:
        evals, fallbacks = group_eigenvalues(capture, group.parameters)
        self._report(f"{group.label}: {len(evals)} eigenvalues")
        return evals, fallbacks

    def _fallbacks(self, result: Eigenvalues) -> tuple[str, ...]:
        return result[1]

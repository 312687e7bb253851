"""`DirectionalDerivativesComputation`: first and second derivatives along eigenvectors of the GGN."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ddn_core.computation.base import DirectionalComputation, chosen_directions
from ddn_core.computation.groups import Group
from ddn_core.engine import Capture, Context
from ddn_core.plugins.resolve import as_criterion
from ddn_core.plugins.strategy import Criterion

Derivatives = tuple[Tensor, Tensor, tuple[str, ...]]


class DirectionalDerivativesComputation(DirectionalComputation[Criterion, Derivatives]):
    """Computation of the derivatives of each sample's loss along eigenvectors of the GGN.

    For a group with generalized Gauss-Newton matrix `G = V Vᵀ` and the eigenvectors `e_k` that its criterion chooses,
    the result has the directional gradients `γ[n, k] = e_kᵀ g_n` and the directional curvatures
    `λ[n, k] = e_kᵀ G_n e_k`, where `g_n` and `G_n` are gradient and GGN of sample n, not divided by N.

    A group is a table with `"params"` and `"criterion"`. One object works for any number of backward passes; each
    pass replaces the results of the one before.

    Example:
        >>> computation = DirectionalDerivativesComputation()
        >>> group = {"params": list(model.parameters()), "criterion": {"kind": "top-k", "k": 4}}
        >>> loss = loss_function(model(X), y)
        >>> computation.backward(loss, [group])
        >>> gammas, lambdas = computation.get_result(group)
    """

    def get_result(self, group: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Return the directional gradients and curvatures of a group.

        Returns:
            Gammas `[N_grad, K]`, loss/param, and lambdas `[N_lambdas, K]`, loss/param². Rows are in the order of the
            sub-sampling's indices, columns in the order of the criterion's choice. A column of gammas changes its sign
            with its eigenvector.

        Raises:
            NoResultError: No backward pass has computed derivatives for this group.
        """
        return self._result(group)[:2]

    def _strategies(self, given: Mapping[str, Any], label: str) -> Criterion:
        return as_criterion(given["criterion"], label, self._warn)

    def _compute(self, capture: Capture, group: Group[Criterion], context: Context) -> Derivatives:
        directions = chosen_directions(capture, group, context)
        self._report_kept(group, len(directions), capture)
        return directions.gammas, directions.lambdas, directions.fallbacks

    def _fallbacks(self, result: Derivatives) -> tuple[str, ...]:
        return result[2]

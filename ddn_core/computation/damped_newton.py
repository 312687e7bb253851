"""`DirectionalDampedNewtonComputation`: directionally damped Newton steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ddn_core.computation.base import DirectionalComputation
from ddn_core.computation.groups import Group
from ddn_core.engine import Capture, Context, DampedDirections, GroupStep, damped_newton_step
from ddn_core.plugins.resolve import as_criterion, as_damping, group_choice
from ddn_core.plugins.strategy import Criterion, Damping


class DirectionalDampedNewtonComputation(DirectionalComputation[tuple[Criterion, Damping], GroupStep]):
    """Computation of a directionally damped Newton step for each parameter group.

    For a group with generalized Gauss-Newton matrix `G = V Vᵀ`, eigenpairs `(λ_k, e_k)`, and chosen directions k,
    the step is `s = Σ_k -γ̄_k / (λ̄_k + δ_k) e_k` with the directional gradients γ̄ and curvatures λ̄ of the loss, and
    the dampings δ (Dangel, Tatzel, Hennig 2022, section 2). V is not formed.

    A group is a table with `"params"`, `"criterion"` and `"damping"`. One object works for any number of backward
    passes; each pass replaces the results of the one before.

    Example:
        >>> computation = DirectionalDampedNewtonComputation()
        >>> group = {
        ...     "params": list(model.parameters()),
        ...     "criterion": {"kind": "top-k", "k": 4},
        ...     "damping": {"kind": "constant", "value": 1.0},
        ... }
        >>> loss = loss_function(model(X), y)
        >>> computation.backward(loss, [group])
        >>> newton_step = computation.get_result(group)
    """

    _keys = ("params", "criterion", "damping")

    def get_result(self, group: Mapping[str, Any]) -> tuple[Tensor, ...]:
        """Return the damped Newton step of a group, with a tensor for each parameter in `group["params"]`.

        Raises:
            NoResultError: No backward pass has computed a step for this group.
        """
        return self._result(group).moves

    def get_directions(self, group: Mapping[str, Any]) -> DampedDirections:
        """Return the chosen directions of a group with their dampings.

        The step is computed from their `evals [K]`, `evecs [R, K]`, `gammas [N_grad, K]`, `lambdas [N_lambdas, K]` and
        `deltas [K]`. Their method `eigenvectors()` returns the directions in parameter space.

        Raises:
            NoResultError: No backward pass has computed directions for this group.
        """
        return self._result(group).directions

    def _strategies(self, given: Mapping[str, Any], label: str) -> tuple[Criterion, Damping]:
        return as_criterion(given["criterion"], label, self._warn), as_damping(given["damping"], label)

    def _compute(self, capture: Capture, group: Group[tuple[Criterion, Damping]], context: Context) -> GroupStep:
        choice = group_choice(*group.strategies, group.label)
        step = damped_newton_step(capture, group.parameters, choice, context)
        kept = "all" if step.uniform_damping is not None else len(step.directions)
        self._report_kept(group, kept, capture)
        return step

    def _fallbacks(self, result: GroupStep) -> tuple[str, ...]:
        return result.summary.table.fallbacks

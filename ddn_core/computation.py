"""Directionally damped Newton steps through BackPACK's `with backpack(...)`: ViViT's interface."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, Parameter

from ddn_core.engine import Capture, CurvatureCapture, DampedDirections, GroupStep, Wanted, damped_newton_step
from ddn_core.errors import ArgumentError, NoResultError
from ddn_core.generators import DeviceGenerators
from ddn_core.plugins.resolve import as_criterion, as_damping, group_choice
from ddn_core.plugins.strategy import Criterion, Damping


@dataclass(frozen=True, eq=False)
class _Group:
    """A parameter group with its own strategies; `given` is kept so that its `id` stays its own."""

    given: Mapping[str, Any]
    label: str
    parameters: list[Parameter]
    criterion: Criterion
    damping: Damping


class DirectionalDampedNewtonComputation:
    """BackPACK extension and hook that compute a directionally damped Newton step for each parameter group.

    For a group with generalized Gauss-Newton matrix `G = V Vᵀ`, eigenpairs `(λ_k, e_k)`, and chosen directions k,
    the step is `s = Σ_k -γ̄_k / (λ̄_k + δ_k) e_k` with γ̄, λ̄ the directional gradients and curvatures of the loss and
    δ the dampings (Dangel, Tatzel, Hennig 2022, section 2). V is not formed.

    One object serves any number of backward passes; each replaces the results of the one before.

    Example:
        >>> computation = DirectionalDampedNewtonComputation()
        >>> model, loss_function = extend(model), extend(loss_function)
        >>> group = {
        ...     "params": list(model.parameters()),
        ...     "criterion": {"kind": "top-k", "k": 4},
        ...     "damping": {"kind": "constant", "value": 1.0},
        ... }
        >>> loss = loss_function(model(X), y)
        >>> with backpack(*computation.get_extensions(), extension_hook=computation.get_extension_hook([group])):
        ...     loss.backward()
        >>> newton_step = computation.get_result(group)
    """

    def __init__(
        self,
        subsampling_grad: Sequence[int] | None = None,
        subsampling_ggn: Sequence[int] | None = None,
        mc_samples_ggn: int = 0,
        verbose: bool = False,
        warn_small_eigvals: float = 1e-4,
        *,
        seed: int | None = None,
    ) -> None:
        """Choose the approximations of gradient and GGN; none by default.

        Args:
            subsampling_grad: Indices of the samples in the gradient; all by default. With a mean-reduced loss the
                gradient is the mean over these samples, with a sum-reduced one their sum.
            subsampling_ggn: Indices of the samples in the GGN; all by default.
            mc_samples_ggn: Number of Monte-Carlo samples of the loss Hessian; 0, the default, for the exact one.
            verbose: Print what is computed.
            warn_small_eigvals: Whether a function as criterion that selects numerically zero eigenvalues causes a
                warning; they are dropped in any case. 0 silences the warning, every other value means the same:
                ViViT compared eigenvalues with this number, but what is numerically zero depends on the spectrum and
                the dtype, and what is not can be used.
            seed: Seed of the Monte-Carlo samples; by default they come from torch's own generator.

        Raises:
            ArgumentError: An index is repeated, negative or no integer, or the number of samples is negative.
        """
        self._verbose = verbose
        self._warn = warn_small_eigvals > 0
        self._groups: list[_Group] = []
        self._results: dict[int, tuple[GroupStep, tuple[Tensor, ...]]] = {}
        self._extension = CurvatureCapture(
            wanted=self._wanted,
            begin=self._discard,
            deliver=self._compute,
            subsampling_grad=subsampling_grad,
            subsampling_ggn=subsampling_ggn,
            mc_samples=mc_samples_ggn,
            generator=DeviceGenerators(seed),
        )

    def get_extensions(self) -> list[CurvatureCapture]:
        """Return the extensions for `with backpack(...)`: one."""
        return [self._extension]

    def get_extension_hook(self, param_groups: Sequence[Mapping[str, Any]]) -> Callable[[Module], None]:
        """Set the parameter groups for the backward passes that follow, and return the hook for `with backpack(...)`.

        Args:
            param_groups: Tables with `"params"`, a list of parameters whose block of the GGN is used; `"criterion"`
                and `"damping"`, each a strategy object, a config table such as `{"kind": "top-k", "k": 4}`, or a
                function with ViViT's signature, `criterion(evals) -> list[int]` (of all R eigenvalues, ascending) and
                `damping(evals, evecs, gammas, lambdas) -> Tensor`.

        Raises:
            ArgumentError: A key is missing, a list of parameters is empty, or a parameter is in two groups.
            ConfigError: A criterion or damping is none, or its table is wrong.
        """
        self._groups = _resolve(param_groups, self._warn)
        self._discard()
        return self._hook

    def get_result(self, group: Mapping[str, Any]) -> tuple[Tensor, ...]:
        """Return the damped Newton step of a group, in the format of `group["params"]`.

        Raises:
            NoResultError: No backward pass has computed a step for this group.
        """
        return self._result(group)[1]

    def get_directions(self, group: Mapping[str, Any]) -> DampedDirections:
        """Return the chosen directions of a group with their dampings.

        Their `evals [K]`, `evecs [R, K]`, `gammas [N_grad, K]`, `lambdas [N_ggn, K]` and `deltas [K]` make up the
        step; `eigenvectors()` gives the directions in parameter space.

        Raises:
            NoResultError: No backward pass has computed directions for this group.
        """
        return self._result(group)[0].directions

    def _hook(self, module: Module) -> None:
        """Take part in BackPACK's protocol; the work is done by the extension."""
        self._tell(f"backward pass reached {type(module).__name__}")

    def _result(self, group: Mapping[str, Any]) -> tuple[GroupStep, tuple[Tensor, ...]]:
        try:
            return self._results[id(group)]
        except KeyError:
            raise NoResultError(
                "no result for this group. Pass the very same group to get_extension_hook, and call backward on a loss "
                "of an extended model and an extended loss function inside `with backpack(...)`."
            ) from None

    def _wanted(self) -> dict[int, Wanted]:
        return {
            id(parameter): Wanted(
                f"parameter {index} of {group.label} (shape {list(parameter.shape)})", parameter, number
            )
            for number, group in enumerate(self._groups)
            for index, parameter in enumerate(group.parameters)
        }

    def _discard(self) -> None:
        self._results = {}

    def _compute(self, capture: Capture) -> None:
        """Compute the step of every group; there are results only if all succeed."""
        results = {}
        for group in self._groups:
            step = damped_newton_step(
                capture, group.parameters, group_choice(group.criterion, group.damping, group.label)
            )
            with torch.no_grad():
                results[id(group.given)] = (step, step.step())
            self._tell(f"{group.label}: {_kept(step)} of {capture.columns} directions kept")
        self._results = results

    def _tell(self, message: str) -> None:
        if self._verbose:
            print(f"ddn: {message}")


def _kept(step: GroupStep) -> str:
    return "all" if step.uniform_damping is not None else str(len(step.directions))


def _resolve(param_groups: Sequence[Mapping[str, Any]], warn: bool) -> list[_Group]:
    """Return the groups with their own strategies, or raise if they cannot be used."""
    if isinstance(param_groups, str | Mapping) or not isinstance(param_groups, Sequence):
        raise ArgumentError(f"the parameter groups are a {type(param_groups).__name__}. Give a list of tables.")
    groups: list[_Group] = []
    taken: dict[int, str] = {}
    for index, given in enumerate(param_groups):
        label = f"group {index}"
        if not isinstance(given, Mapping):
            raise ArgumentError(f"{label} is a {type(given).__name__}. Give a table.")
        if missing := [key for key in ("params", "criterion", "damping") if key not in given]:
            raise ArgumentError(f"{label} has no {missing[0]!r}. A group has 'params', 'criterion' and 'damping'.")
        if isinstance(given["params"], Tensor | str) or not isinstance(given["params"], Iterable):
            raise ArgumentError(
                f"{label} has params of type {type(given['params']).__name__}. Give a list of parameters."
            )
        parameters = list(given["params"])
        if not parameters:
            raise ArgumentError(f"{label} has an empty list of parameters. Give it at least one, or leave it out.")
        for parameter in parameters:
            if not isinstance(parameter, Tensor) or not parameter.is_leaf:
                raise ArgumentError(f"{label} has {parameter!r} among its params. Give parameters of a model.")
            if id(parameter) in taken:
                raise ArgumentError(
                    f"a parameter of shape {list(parameter.shape)} is in {taken[id(parameter)]} and in {label}. "
                    "Put each parameter into one group, once."
                )
            taken[id(parameter)] = label
        groups.append(
            _Group(
                given,
                label,
                parameters,
                as_criterion(given["criterion"], label, warn),
                as_damping(given["damping"], label),
            )
        )
    if not groups:
        raise ArgumentError("there are no parameter groups. Give at least one.")
    return groups

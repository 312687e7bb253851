"""What the computations have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch.nn import Module

from ddn_core.computation.groups import Group, resolve_groups
from ddn_core.engine import Capture, Context, CurvatureCapture, Directions, WantedParameter, group_directions
from ddn_core.errors import NoResultError
from ddn_core.generators import DeviceGenerators
from ddn_core.plugins.resolve import in_group, leading_directions
from ddn_core.plugins.strategy import Criterion

S = TypeVar("S")
R = TypeVar("R")


class Computation(ABC, Generic[S, R]):
    """Extension, hook and results by group; a child says what is computed of a group.

    One object serves any number of backward passes; each replaces the results of the one before.
    """

    _keys: ClassVar[tuple[str, ...]] = ("params", "criterion")

    def __init__(
        self,
        verbose: bool,
        mc_samples: int,
        seed: int | None,
        warn_small_eigvals: float = 0.0,
        subsampling_grad: Sequence[int] | None = None,
        subsampling_ggn: Sequence[int] | None = None,
        subsampling_lambdas: Sequence[int] | None = None,
    ) -> None:
        """Set the computation up; the arguments are those of its children.

        Raises:
            ArgumentError: An index is repeated, negative or no integer, or the number of samples is negative.
        """
        self._verbose = verbose
        self._warn = warn_small_eigvals > 0
        self._groups: list[Group[S]] = []
        self._results: dict[int, R] = {}
        self._passes = 0
        self._extension = CurvatureCapture(
            wanted=self._wanted,
            begin=self._discard,
            deliver=self._compute_all,
            subsampling_grad=subsampling_grad,
            subsampling_ggn=subsampling_ggn,
            subsampling_lambdas=subsampling_lambdas,
            mc_samples=mc_samples,
            generator=DeviceGenerators(seed),
        )

    @abstractmethod
    def _strategies(self, given: Mapping[str, Any], label: str) -> S:
        """Return what chooses in a group, from the table of the group and its name in messages."""

    @abstractmethod
    def _compute(self, capture: Capture, group: Group[S], context: Context) -> R:
        """Return the result of a group, on the occasion of a pass."""

    @abstractmethod
    def _fallbacks(self, result: R) -> tuple[str, ...]:
        """Return what the eigensolver had to try for a result."""

    def get_fallbacks(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        """Return what the eigensolver had to try beyond the first attempt: `"eigh"`, `"float64"`, `"jitter"`.

        Where a step was made without eigenvectors, its spectrum is computed now.

        Raises:
            NoResultError: No backward pass has computed a result for this group.
        """
        return self._fallbacks(self._result(group))

    def get_extension(self) -> CurvatureCapture:
        """Return the extension for `with backpack(...)`."""
        return self._extension

    def get_extensions(self) -> list[CurvatureCapture]:
        """Return the extensions for `with backpack(...)`: one."""
        return [self._extension]

    def get_extension_hook(self, param_groups: Sequence[Mapping[str, Any]]) -> Callable[[Module], None]:
        """Set the parameter groups for the backward passes that follow, and return the hook for `with backpack(...)`.

        Args:
            param_groups: Tables with the keys that the class names, and any others: `"params"`, a list of parameters
                whose block of the GGN is used; `"criterion"` and `"damping"`, each a strategy object, a config table
                such as `{"kind": "top-k", "k": 4}`, or a function with ViViT's signature, `criterion(evals) ->
                list[int]` (of all R eigenvalues, ascending) and `damping(evals, evecs, gammas, lambdas) -> Tensor`.

        Raises:
            ArgumentError: A key is missing, a list of parameters is empty, or a parameter is in two groups.
            ConfigError: A criterion or damping is none, or its table is wrong.
        """
        self._groups = resolve_groups(param_groups, self._keys, self._strategies)
        self._discard()
        return self._hook

    def _result(self, group: Mapping[str, Any]) -> R:
        try:
            return self._results[id(group)]
        except KeyError:
            raise NoResultError(
                "no result for this group. Pass the very same group to get_extension_hook, and call backward on a loss "
                "of an extended model and an extended loss function inside `with backpack(...)`."
            ) from None

    def _hook(self, module: Module) -> None:
        """Take part in BackPACK's protocol; the work is done by the extension."""
        self._report(f"backward pass reached {type(module).__name__}")

    def _wanted(self) -> dict[int, WantedParameter]:
        return {
            id(parameter): WantedParameter(
                f"parameter {index} of {group.label} (shape {list(parameter.shape)})", parameter, number
            )
            for number, group in enumerate(self._groups)
            for index, parameter in enumerate(group.parameters)
        }

    def _discard(self) -> None:
        self._results = {}

    @torch.no_grad()
    def _compute_all(self, capture: Capture) -> None:
        """Compute the results of all groups; there are some only if all succeed."""
        results = {}
        for number, group in enumerate(self._groups):
            results[id(group.table)] = self._compute(capture, group, Context(step=self._passes, group=number))
        self._results = results
        self._passes += 1

    def _report(self, message: str) -> None:
        if self._verbose:
            print(f"ddn: {message}")

    def _report_kept(self, group: Group[S], kept: int | str, capture: Capture) -> None:
        self._report(f"{group.label}: {kept} of {capture.columns} directions kept")


class DirectionalComputation(Computation[S, R]):
    """A computation with derivatives along directions: what can be chosen about samples."""

    def __init__(
        self,
        subsampling_grad: Sequence[int] | None = None,
        subsampling_ggn: Sequence[int] | None = None,
        mc_samples_ggn: int = 0,
        verbose: bool = False,
        warn_small_eigvals: float = 1e-4,
        *,
        subsampling_lambdas: Sequence[int] | None = None,
        seed: int | None = None,
    ) -> None:
        """Choose the approximations of gradient and GGN; none by default.

        Args:
            subsampling_grad: Indices of the samples in the gradient; all by default. With a mean-reduced loss the
                gradient is the mean over these samples, with a sum-reduced one their sum.
            subsampling_ggn: Indices of the samples in the GGN, whose eigenvectors the directions are; all by default.
            mc_samples_ggn: Number of Monte-Carlo samples of the loss Hessian; 0, the default, for the exact one.
            verbose: Print what is computed.
            warn_small_eigvals: Whether a function as criterion that selects numerically zero eigenvalues causes a
                warning; they are dropped in any case. 0 silences the warning, every other value means the same:
                ViViT compared eigenvalues with this number, but what is numerically zero depends on the spectrum and
                the dtype, and what is not can be used.
            subsampling_lambdas: Indices of the samples in the directional curvatures; those of the GGN by default.
                Measured on the samples that chose the directions, curvature is biased upward: a leading eigenvector
                is where the curvature of these very samples is largest, their noise included. Samples that are not
                in the GGN are free of that bias (Tatzel et al. 2025, arXiv 2410.14325); the mean of `lambdas` is then
                not the eigenvalue.
            seed: Seed of the Monte-Carlo samples; by default they come from torch's own generator.

        Raises:
            ArgumentError: An index is repeated, negative or no integer, or the number of samples is negative.
        """
        super().__init__(
            verbose, mc_samples_ggn, seed, warn_small_eigvals, subsampling_grad, subsampling_ggn, subsampling_lambdas
        )


def chosen_directions(capture: Capture, group: Group[Criterion], context: Context) -> Directions:
    """Return the directions of a group that its criterion chooses."""
    criterion = group.strategies
    directions = group_directions(capture, group.parameters, context, leading_directions(criterion))
    return directions.select(in_group(criterion, group.label)(directions)) if len(directions) else directions

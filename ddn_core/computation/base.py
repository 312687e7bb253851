"""Base classes of the computations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor
from torch.nn import Module

from ddn_core.computation.groups import Group, resolve_groups
from ddn_core.engine import (
    Capture,
    CaptureSettings,
    Context,
    CurvatureCapture,
    CurvatureKind,
    Directions,
    PlanStore,
    Root,
    Subsampling,
    WantedParameter,
    captured_backward,
    group_directions,
    root_of,
)
from ddn_core.errors import NoResultError
from ddn_core.generators import DeviceGenerators
from ddn_core.plugins.resolve import in_group, leading_directions
from ddn_core.plugins.strategy import Criterion

S = TypeVar("S")
R = TypeVar("R")


class Computation(ABC, Generic[S, R]):
    """Base class of the computations: backward passes, and the results of each group; a subclass computes a result.

    `backward` runs the backward pass of a loss. Alternatively, `get_extension` and `get_extension_hook` return what
    BackPACK's `with backpack(...)` takes, as in ViViT; the loss function is then extended. One object works for any
    number of backward passes; each pass replaces the results of the one before.
    """

    _keys: ClassVar[tuple[str, ...]] = ("params", "criterion")

    def __init__(
        self,
        verbose: bool,
        root: Root,
        seed: int | None,
        warn_small_eigvals: float = 0.0,
        subsampling_grad: Sequence[int] | None = None,
        subsampling_ggn: Sequence[int] | None = None,
        subsampling_lambdas: Sequence[int] | None = None,
    ) -> None:
        """Set up the computation; the subclasses document the arguments.

        Raises:
            ArgumentError: A sample index is repeated, negative or not an integer, or the number of Monte-Carlo samples
                is negative.
        """
        self._verbose = verbose
        self._warn = warn_small_eigvals > 0
        self._groups: list[Group[S]] = []
        self._results: dict[int, R] = {}
        self._passes = 0
        self._settings = CaptureSettings(
            Subsampling(subsampling_grad, subsampling_ggn, subsampling_lambdas), root, DeviceGenerators(seed)
        )
        self._plans = PlanStore()
        self._extension = CurvatureCapture(self._wanted, self._discard, self._compute_all, self._settings, self._plans)

    @abstractmethod
    def _strategies(self, given: Mapping[str, Any], label: str) -> S:
        """Return the strategies of a group.

        Args:
            given: Table of the group.
            label: Name of the group in messages.
        """

    @abstractmethod
    def _compute(self, capture: Capture, group: Group[S], context: Context) -> R:
        """Return the result of a group for the capture of a pass."""

    @abstractmethod
    def _fallbacks(self, result: R) -> tuple[str, ...]:
        """Return the fallbacks of the eigensolver for a result."""

    def get_fallbacks(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the solvers that were used after the first one failed: `"eigh"`, `"float64"`, `"jitter"`.

        If a step was computed without eigenvectors, its spectrum is computed now.

        Raises:
            NoResultError: No backward pass has computed a result for this group.
        """
        return self._fallbacks(self._result(group))

    def get_extension(self) -> CurvatureCapture:
        """Return the extension for `with backpack(...)`."""
        return self._extension

    def get_extensions(self) -> list[CurvatureCapture]:
        """Return the extensions for `with backpack(...)`, a list with one extension."""
        return [self._extension]

    def get_extension_hook(self, param_groups: Sequence[Mapping[str, Any]]) -> Callable[[Module], None]:
        """Set the parameter groups for the backward passes that follow, and return the hook for `with backpack(...)`.

        Args:
            param_groups: Tables with the keys that the class docstring lists; other keys are ignored. `"params"` is a
                list of parameters, whose block of the GGN is used. `"criterion"` and `"damping"` are strategy objects,
                config tables such as `{"kind": "top-k", "k": 4}`, or functions with ViViT's signatures:
                `criterion(evals) -> list[int]`, with all R eigenvalues ascending, and `damping(evals, evecs, gammas,
                lambdas) -> Tensor`.

        Raises:
            ArgumentError: A key is missing, a list of parameters is empty, or a parameter is in two groups.
            ConfigError: A criterion or damping is not a strategy, or its table is invalid.
        """
        self._groups = resolve_groups(param_groups, self._keys, self._strategies)
        self._discard()
        return self._hook

    def backward(self, loss: Tensor, param_groups: Sequence[Mapping[str, Any]], samples: int | None = None) -> None:
        """Run the backward pass of a loss of any model, and compute the results of the groups.

        Args:
            loss: Loss, a scalar with a graph.
            param_groups: Tables as for `get_extension_hook`.
            samples: Number of samples in the batch; read from the model output by default.

        Raises:
            ArgumentError: A table is wrong, or `samples` does not fit the model output.
            ConfigError: A criterion or damping is not a strategy, or its table is invalid.
            CurvatureError: The loss is not supported.
            NonFiniteError: The loss is not finite.
        """
        self.get_extension_hook(param_groups)
        capture = captured_backward(loss, self._wanted(), self._settings, self._plans, samples)
        with torch.autocast(capture.device.type, enabled=False):
            self._compute_all(capture)

    def _result(self, group: Mapping[str, Any]) -> R:
        try:
            return self._results[id(group)]
        except KeyError:
            raise NoResultError(
                "there is no result for this group. Pass this same table, not a copy, to `computation.backward(loss, "
                "[group])`; or to get_extension_hook, and call backward on the result of an extended loss function "
                "inside `with backpack(...)`."
            ) from None

    def _hook(self, module: Module) -> None:
        """Do nothing but report: BackPACK's protocol needs a hook, and the extension does the work."""
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
        """Compute the results of all groups, and keep them only if every computation succeeds."""
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
    """Base class of the computations with derivatives along directions, and their choice of samples."""

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
        kind: CurvatureKind | None = None,
    ) -> None:
        """Choose the approximations of gradient and GGN; none by default.

        Args:
            subsampling_grad: Indices of the samples in the gradient; all by default. With a mean-reduced loss the
                gradient is the mean over these samples, with a sum-reduced one their sum.
            subsampling_ggn: Indices of the samples in the GGN, whose eigenvectors the directions are; all by default.
            mc_samples_ggn: Number of Monte-Carlo samples of the loss Hessian; 0, the default, for the exact loss
                Hessian.
            verbose: Print a line for each module of the pass and for each group.
            warn_small_eigvals: If positive, warn if a function as criterion selects numerically zero eigenvalues, which
                are dropped in any case. 0 silences the warning, and all positive values mean the same. ViViT compares
                eigenvalues with this number; here, the spectrum and the dtype decide which eigenvalues are numerically
                zero, and all others can be used.
            subsampling_lambdas: Indices of the samples in the directional curvatures; those of the GGN by default.
                On the samples that gave the directions, directional curvatures are biased upward: along a leading
                eigenvector, the curvature of these samples is largest, noise included. On samples outside of the GGN
                there is no such bias (Tatzel et al. 2025, arXiv 2410.14325); the mean of `lambdas` then differs from
                the eigenvalue.
            seed: Seed of the Monte-Carlo samples; by default they come from torch's own generator.
            kind: Kind of curvature, such as `"ggn-aligned"`; by default `"ggn-mc"` with Monte-Carlo samples, `"ggn"`
                without.

        Raises:
            ArgumentError: A sample index is repeated, negative or not an integer, or the number of Monte-Carlo samples
                is negative.
        """
        super().__init__(
            verbose,
            root_of(mc_samples_ggn, kind),
            seed,
            warn_small_eigvals,
            subsampling_grad,
            subsampling_ggn,
            subsampling_lambdas,
        )


def chosen_directions(capture: Capture, group: Group[Criterion], context: Context) -> Directions:
    """Return the directions that the criterion of a group chooses."""
    criterion = group.strategies
    directions = group_directions(capture, group.parameters, context, leading_directions(criterion))
    return directions.select(in_group(criterion, group.label)(directions)) if len(directions) else directions

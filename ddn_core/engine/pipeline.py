"""The whole way from a capture to a damped step of one group, in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ddn_core.engine.capture import Capture
from ddn_core.engine.clock import StageClock
from ddn_core.engine.context import Context, GroupNorms
from ddn_core.engine.directions import Directions, DirectionSource
from ddn_core.engine.gram import GroupCurvature
from ddn_core.engine.pull import Pull, PulledDirections, PulledSource
from ddn_core.engine.quadratic import QuadraticModel
from ddn_core.engine.solved import SolvedStep
from ddn_core.engine.source import EngineSource, outputs_first, same_samples
from ddn_core.engine.spectrum import Spectrum, eigendecompose, eigenvalues, fix_signs
from ddn_core.engine.step import DampedDirections, GroupStep


@dataclass(frozen=True)
class Choice:
    """What a criterion and a damping choose, as functions; the engine knows no strategies.

    Attributes:
        criterion: Gives the indices of the directions to keep; not asked where there is none.
        damping: Gives the dampings of the kept directions, `[K]`; not asked where none is kept.
        largest: Gives the number of leading eigenpairs that the criterion needs, `None` for all.
        uniform_damping: Gives the damping of every direction, if all are kept and all are damped alike, `None`
            otherwise; no eigenvectors are computed then, unless they are read.
        keeps_all: Whether the criterion keeps every direction, whatever they are.
    """

    criterion: Callable[[Directions], Tensor]
    damping: Callable[[Directions], Tensor]
    largest: Callable[[Context], int | None] = lambda context: None
    uniform_damping: Callable[[Context], float | None] = lambda context: None
    keeps_all: bool = False


@dataclass(frozen=True, eq=False)
class Decomposition:
    """Eigenpairs of a group.

    Attributes:
        spectrum: Eigenvalues; its eigenvectors are those of the matrix that was decomposed.
        evecs: Gram eigenvectors with signs, outputs first, `[R, K]`.
        vectors: Eigenvectors in parameter space, `[K, P]`, where the GGN was decomposed.
    """

    spectrum: Spectrum
    evecs: Tensor
    vectors: Tensor | None

    def directions(self, capture: Capture, source: DirectionSource, context: Context) -> Directions:
        """Return the directions, with what a strategy can know beyond them."""
        own = self.spectrum
        return Directions(
            evals=own.evals,
            evecs=self.evecs,
            all_evals=own.all_evals,
            reduction=capture.reduction,
            source=source,
            vectors=self.vectors,
            fallbacks=own.fallbacks,
            context=context,
        )


@dataclass(frozen=True, eq=False)
class GroupMemo:
    """What was computed of a group and does not depend on the damping; the caller's, for as long as it tries.

    Attributes:
        curvature: Curvature of the group, with its matrix once it was computed.
        decompositions: By number of leading eigenpairs, the eigenpairs.
    """

    curvature: GroupCurvature
    decompositions: dict[int | None, Decomposition] = field(default_factory=dict)

    @classmethod
    def of(cls, capture: Capture, parameters: Sequence[Tensor]) -> GroupMemo:
        """Return an empty one for a group."""
        return cls(GroupCurvature.of(capture, parameters))


@torch.no_grad()
def damped_newton_step(
    capture: Capture,
    parameters: Sequence[Tensor],
    choice: Choice,
    occasion: Context | None = None,
    derivatives: Capture | None = None,
    pull: Pull | None = None,
    clock: StageClock | None = None,
    memo: GroupMemo | None = None,
) -> GroupStep:
    """Return the damped Newton step of one group.

    Args:
        capture: What the backward pass gave.
        parameters: The group's parameters.
        choice: What criterion and damping choose.
        occasion: The step and the group, by default the first; what is known of gradient and model is filled in.
        derivatives: What a backward pass on another batch gave, to read gradients and directional curvatures from; by
            default they are those of the batch that gives the directions.
        pull: Weight decay and memory of the group; none by default.
        clock: Takes the time of the stages.
        memo: What a try before computed of the group, with other dampings; what this one computes is added.
    """
    clock = clock or StageClock(capture.seconds)
    memo = memo or GroupMemo.of(capture, parameters)
    basis = memo.curvature
    data = basis if derivatives is None else GroupCurvature.of(derivatives, parameters)
    context = _context(occasion, basis, data, parameters)
    plain = EngineSource(basis, data)
    source = plain if pull is None else PulledSource(plain, pull)

    def decompose() -> DampedDirections:
        with torch.no_grad():
            with clock.stage("strategies"):
                largest = choice.largest(context)
            if largest not in memo.decompositions:
                memo.decompositions[largest] = _decomposed(basis, largest, clock)
            directions = memo.decompositions[largest].directions(basis.capture, source, context)
            with clock.stage("strategies"):
                chosen = directions.select(choice.criterion(directions)) if len(directions) else directions
                damped = DampedDirections.of(chosen, choice.damping(chosen) if len(chosen) else chosen.evals)
            if isinstance(source, PulledSource):
                return PulledDirections.within(damped, source, choice.keeps_all)
            return damped

    if data is basis and same_samples(capture.lambda_samples, capture.ggn_samples):
        with clock.stage("strategies"):
            uniform = choice.uniform_damping(context)
        solved = None if uniform is None else SolvedStep.of(basis, uniform, decompose, pull, clock)
        if solved is not None:
            return solved
    return decompose()


@torch.no_grad()
def quadratic_model(
    capture: Capture,
    parameters: Sequence[Tensor],
    moves: Sequence[Tensor],
    derivatives: Capture | None = None,
    decay: float = 0.0,
) -> QuadraticModel:
    """Return slope and curvature of the loss of a group along any move of its parameters.

    Args:
        capture: What the backward pass gave.
        parameters: The group's parameters, not moved yet.
        moves: The move, in their shapes.
        derivatives: What a backward pass on another batch gave, if gradient and curvature are read from it.
        decay: Coefficient of the L2 weight decay that belongs to the loss.
    """
    return QuadraticModel.along(GroupCurvature.of(derivatives or capture, parameters), parameters, moves, decay)


@torch.no_grad()
def group_directions(
    capture: Capture,
    parameters: Sequence[Tensor],
    occasion: Context | None = None,
    largest: Callable[[Context], int | None] | None = None,
    derivatives: Capture | None = None,
    pull: Pull | None = None,
) -> Directions:
    """Return all directions of one group, or the leading ones, as strategies see them.

    Args:
        capture: What the backward pass gave.
        parameters: The group's parameters.
        occasion: The pass and the group, by default the first; what is known of gradient and model is filled in.
        largest: Gives the number of leading eigenpairs that are needed; all by default.
        derivatives: What a backward pass on another batch gave, to read gradients and directional curvatures from.
        pull: Weight decay and memory of the group; none by default.
    """
    curvature = GroupCurvature.of(capture, parameters)
    data = curvature if derivatives is None else GroupCurvature.of(derivatives, parameters)
    context = _context(occasion, curvature, data, parameters)
    leading = None if largest is None else largest(context)
    decomposed = _decomposed(curvature, leading, StageClock())
    plain = EngineSource(curvature, data)
    return decomposed.directions(capture, plain if pull is None else PulledSource(plain, pull), context)


@torch.no_grad()
def group_eigenvalues(capture: Capture, parameters: Sequence[Tensor]) -> tuple[Tensor, tuple[str, ...]]:
    """Return all R eigenvalues of the Gram matrix of one group, ascending, and the fallbacks that were needed.

    Numerically zero ones are what the solver gave; where the GGN is smaller, it was decomposed, and the eigenvalues
    that only the Gram matrix has are exactly zero.

    Args:
        capture: What the backward pass gave.
        parameters: The group's parameters.
    """
    curvature = GroupCurvature.of(capture, parameters)
    if not curvature.is_ggn_smaller:
        return eigenvalues(curvature.gram)
    columns = curvature.formed()
    evals, fallbacks = eigenvalues(columns.T @ columns)
    return torch.cat([evals.new_zeros(capture.columns - len(evals)), evals]), fallbacks


def _context(
    occasion: Context | None, basis: GroupCurvature, data: GroupCurvature, parameters: Sequence[Tensor]
) -> Context:
    capture = basis.capture
    norms = GroupNorms(basis, data, parameters)
    return replace(
        occasion or Context(),
        outputs=capture.outputs,
        samples=len(capture.ggn_samples),
        parameters=basis.size,
        norms=norms,
    )


def _decomposed(basis: GroupCurvature, largest: int | None, clock: StageClock) -> Decomposition:
    """Return the eigenpairs of a group, from the smaller of the Gram matrix and the GGN."""
    capture, vectors = basis.capture, None
    if basis.is_ggn_smaller:
        with clock.stage("gram"):
            matrix = basis.ggn
        with clock.stage("spectrum"):
            spectrum = eigendecompose(matrix, largest, basis.precision).padded(capture.columns)
            along = (basis.ggn_columns @ spectrum.evecs / spectrum.evals.sqrt()).to(capture.dtype)
            spectrum = spectrum.to(capture.dtype)
            plain = outputs_first(along, capture.columns_per_sample)
            evecs = fix_signs(plain)
            vectors = torch.where((plain * evecs).sum(0) < 0, -spectrum.evecs, spectrum.evecs).T
    else:
        with clock.stage("gram"):
            matrix = basis.gram
        with clock.stage("spectrum"):
            spectrum = eigendecompose(matrix, largest)
            evecs = fix_signs(outputs_first(spectrum.evecs, capture.columns_per_sample))
    return Decomposition(spectrum, evecs, vectors)

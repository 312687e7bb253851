"""All stages from a capture to the damped Newton step of one group, in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from ddn_core.engine.capture import Capture
from ddn_core.engine.clock import StageClock
from ddn_core.engine.context import Context
from ddn_core.engine.directions import Directions, DirectionSource
from ddn_core.engine.figures import GroupFigures
from ddn_core.engine.gram import GroupCurvature
from ddn_core.engine.quadratic import QuadraticModel
from ddn_core.engine.solved import solved_step
from ddn_core.engine.source import EngineSource, outputs_first, same_samples
from ddn_core.engine.spectrum import (
    Spectrum,
    curvature_overflows,
    curvature_underflows,
    eigendecompose,
    eigenvalues,
    fix_signs,
)
from ddn_core.engine.step import Correction, DampedDirections, DecreaseLimit, GroupStep, checked_length
from ddn_core.engine.terms import DecayedSource, StepTerms, TermImages
from ddn_core.errors import NonFiniteError, StrategyError

SPREAD = 1e12
"""Ratio of the largest curvature to the smallest one that can be resolved."""
STRONGEST = 1e6
"""Ratio of a damping to the curvature from which on an infinite damping hardly changes the step."""


@dataclass(frozen=True)
class Choice:
    """Criterion and damping of a group, as functions, because the engine does not import the strategy classes.

    Attributes:
        criterion: Returns the indices of the directions to keep; not called if there are no directions.
        damping: Returns the dampings of the kept directions, `[K]`; not called if none is kept.
        largest: Returns the number of leading eigenpairs that the criterion needs, `None` for all.
        uniform_damping: Returns the damping of every direction, if all are kept and have the same damping, `None`
            otherwise. With a uniform damping no eigenvectors are computed, unless they are read.
        keeps_all: Whether the criterion keeps every direction, whatever the spectrum.
        may_be_raised: Whether a uniform damping below the rounding errors of the curvature is raised to them. Otherwise
            such a step is computed from eigenvectors, which takes longer.
    """

    criterion: Callable[[Directions], Tensor]
    damping: Callable[[Directions], Tensor]
    largest: Callable[[Context], int | None] = lambda context: None
    uniform_damping: Callable[[Context], float | None] = lambda context: None
    keeps_all: bool = False
    may_be_raised: bool = False


@dataclass(frozen=True, eq=False)
class Decomposition:
    """Eigenpairs of a group.

    Attributes:
        spectrum: Eigenvalues; its eigenvectors are those of the matrix that was decomposed.
        evecs: Gram eigenvectors with signs, outputs first, `[R, K]`.
        vectors: Eigenvectors in parameter space, `[K, P]`, if the GGN was decomposed.
    """

    spectrum: Spectrum
    evecs: Tensor
    vectors: Tensor | None

    def directions(self, capture: Capture, source: DirectionSource, context: Context) -> Directions:
        """Return the directions, with the context that strategies read beyond them."""
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
    """Results for a group that do not depend on the damping; the caller keeps them while it tries several dampings.

    Attributes:
        curvature: Curvature of the group, which keeps its matrix once the matrix has been computed.
        decompositions: Eigenpairs, by the requested number of leading ones.
    """

    curvature: GroupCurvature
    decompositions: dict[int | None, Decomposition] = field(default_factory=dict)

    @classmethod
    def of(cls, capture: Capture, parameters: Sequence[Tensor]) -> GroupMemo:
        """Return an empty memo for a group."""
        return cls(GroupCurvature.of(capture, parameters))


@torch.no_grad()
def damped_newton_step(
    capture: Capture,
    parameters: Sequence[Tensor],
    choice: Choice,
    context: Context | None = None,
    derivatives: Capture | None = None,
    terms: StepTerms | None = None,
    clock: StageClock | None = None,
    memo: GroupMemo | None = None,
    max_decrease: float | None = None,
    needs_model: bool = False,
) -> GroupStep:
    """Return the damped Newton step of one group.

    Args:
        capture: Capture of the backward pass that gives the directions.
        parameters: The group's parameters.
        choice: Criterion and damping, as functions.
        context: The step and the group, by default the first; its sizes and figures are filled in.
        derivatives: Capture of a backward pass on another batch, to read gradients and directional curvatures from; by
            default they are those of the batch that gives the directions.
        terms: Weight decay, anchor and complement of the group; none by default.
        clock: Takes the time of the stages.
        memo: Results of an earlier try with other dampings, which this try adds to.
        max_decrease: Largest decrease of the loss that the slope at the start of the correction may promise, in
            multiples of the loss there, or of the loss of the batch if that is larger; the dampings are multiplied by
            4 until it does not promise more. No limit by default.
        needs_model: Whether the model of the loss along the step is read; it can then come with the step.

    Raises:
        NonFiniteError: The step has NaN or infinite entries.
    """
    clock = clock or StageClock(capture.seconds)
    memo = memo or GroupMemo.of(capture, parameters)
    basis = memo.curvature
    data = basis if derivatives is None else GroupCurvature.of(derivatives, parameters)
    images = None if terms is None else TermImages(basis, terms)
    figures = _figures(basis, data, parameters, images)
    context = _context(context, basis, data, figures)
    plain = EngineSource(basis, data)
    decayed = None if images is None else DecayedSource(plain, images)
    limit = None
    if max_decrease is not None:
        slope, anchor_curvature = figures.anchor_model
        limit = DecreaseLimit.of(max_decrease, context.loss, slope + 0.5 * anchor_curvature)

    def decompose() -> DampedDirections:
        with torch.no_grad():  # it may be called later
            with clock.stage("strategies"):
                largest = choice.largest(context)
            if largest not in memo.decompositions:
                memo.decompositions[largest] = _decomposed(basis, largest, clock)
            directions = memo.decompositions[largest].directions(basis.capture, decayed or plain, context)
            with clock.stage("strategies"):
                try:
                    chosen = directions.select(choice.criterion(directions)) if len(directions) else directions
                    deltas = choice.damping(chosen) if len(chosen) else chosen.evals
                except StrategyError:
                    memo.decompositions.clear()  # a strategy may have changed the tensors in place
                    raise
            _check_range(memo.decompositions[largest].spectrum.largest, chosen, deltas, basis.capture.least_curvature)
            return DampedDirections.of(chosen, deltas)

    if data is basis and same_samples(capture.lambda_samples, capture.ggn_samples):
        with clock.stage("strategies"):
            uniform = choice.uniform_damping(context)
        solved = None
        if uniform is not None:
            solved = solved_step(basis, uniform, decompose, images, clock, limit, needs_model, choice.may_be_raised)
        if solved is not None:
            return replace(solved, context=context)
    directions = decompose()
    with clock.stage("step"):
        projections = None if decayed is None else decayed.projections(directions)
        anchors = None if projections is None else projections[1]
        damping_factor = 1.0
        table = directions.table(anchors)
        gradient = data.gradient_in_parameters() if terms is not None and terms.include_complement else None
        outside = 0.0
        if limit is not None and terms is not None and gradient is not None and projections is not None:
            outside = terms.slope_outside(gradient, plain.loss_gammas(directions), projections, data.unit)
        can_grow = limit is not None and bool(((directions.deltas > 0) & directions.deltas.isfinite()).any())
        while True:
            factor = 0.0 if terms is None else terms.complement_factor(directions.deltas, choice.keeps_all)
            if limit is None or not can_grow or damping_factor >= limit.largest_factor:
                break
            promise = table.promise(plain.loss_gammas(directions), plain.loss_lambdas(directions)) - factor * outside
            if not limit.is_exceeded(promise):
                break
            damping_factor *= limit.factor
            directions = DampedDirections.of(directions, _raised(directions, limit.factor))
            table = directions.table(anchors)
        correction = Correction.along(table, directions.combine, terms, projections, factor)
        moves = correction.step(terms, gradient, data.reached, data.unit)
        largest = checked_length(moves)
    chosen = partial(DampedDirections.of, directions, directions.deltas)
    return GroupStep(
        moves,
        table,
        basis.reached,
        factor,
        decompose=chosen,
        largest=largest,
        damping_factor=damping_factor,
        context=context,
    )


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
        capture: Capture of the backward pass.
        parameters: The group's parameters, not moved yet.
        moves: The move, in the shapes of the parameters.
        derivatives: Capture of a backward pass on another batch, if gradient and curvature are read from it.
        decay: Coefficient of the L2 weight decay that belongs to the loss.
    """
    return QuadraticModel.along(GroupCurvature.of(derivatives or capture, parameters), parameters, moves, decay)


@torch.no_grad()
def group_directions(
    capture: Capture,
    parameters: Sequence[Tensor],
    context: Context | None = None,
    largest: Callable[[Context], int | None] | None = None,
    derivatives: Capture | None = None,
    terms: StepTerms | None = None,
) -> Directions:
    """Return all directions of one group, or the leading ones, as strategies receive them.

    Args:
        capture: Capture of the backward pass.
        parameters: The group's parameters.
        context: The pass and the group, by default the first; its sizes and figures are filled in.
        largest: Returns the number of leading eigenpairs that are needed; all by default.
        derivatives: Capture of a backward pass on another batch, to read gradients and directional curvatures from.
        terms: Weight decay, anchor and complement of the group; none by default.
    """
    curvature = GroupCurvature.of(capture, parameters)
    data = curvature if derivatives is None else GroupCurvature.of(derivatives, parameters)
    images = None if terms is None else TermImages(curvature, terms)
    context = _context(context, curvature, data, _figures(curvature, data, parameters, images))
    leading = None if largest is None else largest(context)
    decomposed = _decomposed(curvature, leading, StageClock())
    plain = EngineSource(curvature, data)
    return decomposed.directions(capture, plain if images is None else DecayedSource(plain, images), context)


@torch.no_grad()
def group_eigenvalues(capture: Capture, parameters: Sequence[Tensor]) -> tuple[Tensor, tuple[str, ...]]:
    """Return all R eigenvalues of the Gram matrix of one group, ascending, and the fallbacks that were needed.

    Numerically zero eigenvalues are returned as the solver computed them. If the GGN is the smaller matrix, it is
    decomposed, and the eigenvalues that only the Gram matrix has are exactly zero.

    Args:
        capture: Capture of the backward pass.
        parameters: The group's parameters.
    """
    curvature = GroupCurvature.of(capture, parameters)
    if not curvature.is_ggn_smaller:
        return eigenvalues(curvature.gram)
    columns = curvature.formed()
    evals, fallbacks = eigenvalues(columns.T @ columns)
    return torch.cat([evals.new_zeros(capture.columns - len(evals)), evals]), fallbacks


def _figures(
    basis: GroupCurvature, data: GroupCurvature, parameters: Sequence[Tensor], images: TermImages | None
) -> GroupFigures:
    """Return the figures of a group.

    Args:
        basis: Curvature of the batch that gives the directions.
        data: Curvature of the batch that gives the gradient.
        parameters: The group's parameters.
        images: Weight decay and anchor, as the first of the two sees them; `None` without any.
    """
    own = images if images is None or data is basis else TermImages(data, images.terms)
    return GroupFigures(basis, data, parameters, own)


def _context(context: Context | None, basis: GroupCurvature, data: GroupCurvature, figures: GroupFigures) -> Context:
    """Return a context with the sizes and figures of a group.

    Args:
        context: The step and the group, by default the first.
        basis: Curvature of the batch that gives the directions.
        data: Curvature of the batch that gives the gradient.
        figures: Figures of the group.
    """
    capture = basis.capture
    return replace(
        context or Context(),
        outputs=capture.outputs,
        samples=len(capture.ggn_samples),
        parameters=basis.size,
        loss=data.capture.loss,
        norms=figures,
    )


def _check_range(curvature: float, chosen: Directions, deltas: Tensor, least: float) -> None:
    """Check that damped curvatures are within the range of their dtype; this waits for the device at its ends.

    Args:
        curvature: The largest eigenvalue.
        chosen: The chosen directions.
        deltas: Their dampings.
        least: Smallest damped curvature that has all digits; 0 for no check.

    Raises:
        CurvatureError: A damped curvature is below it.
        NonFiniteError: A damping is infinite, or its sum with the largest curvature.
    """
    largest = torch.finfo(deltas.dtype).max
    if curvature < least * SPREAD and bool((chosen.evals + deltas < least).any()):
        raise curvature_underflows(float((chosen.evals + deltas).min()), deltas.dtype)
    if curvature > largest / STRONGEST and bool((deltas + curvature).isinf().any()):
        raise NonFiniteError(
            f"curvature and damping overflow: the curvature is up to {curvature:.1e}, and numbers in {deltas.dtype} "
            f"are up to {largest:.1e}. Multiply the loss by a small constant, or use float64."
        )


def _raised(directions: DampedDirections, factor: float) -> Tensor:
    """Return the dampings of directions times a factor.

    Raises:
        NonFiniteError: The sum of a curvature and a finite damping overflows.
    """
    deltas = factor * directions.deltas
    if bool(((deltas + directions.loss_lambdas).isinf() & directions.deltas.isfinite()).any()):
        raise NonFiniteError(
            f"the damping that `max_decrease` asks for overflows in {deltas.dtype}. Multiply the loss by a small "
            "constant, or use float64."
        )
    return deltas


def _decomposed(basis: GroupCurvature, largest: int | None, clock: StageClock) -> Decomposition:
    """Return the eigenpairs of a group, from the smaller of the Gram matrix and the GGN."""
    capture, vectors = basis.capture, None
    if basis.is_ggn_smaller:
        with clock.stage("gram"):
            matrix = basis.ggn
        with clock.stage("spectrum"):
            spectrum = eigendecompose(matrix, largest, basis.precision).padded(capture.columns)
            if spectrum.largest > torch.finfo(capture.dtype).max:
                raise curvature_overflows()
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

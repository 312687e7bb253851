"""Estimated operations, bytes and shares of the time of a step, from shapes alone.

The model runs on torch's meta device: nothing is computed, and no memory of the model's size is allocated.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn import Module

from ddn_core.engine.capture.budget import CapturePlan, plan_capture
from ddn_core.engine.capture.destinations import WantedParameter
from ddn_core.engine.capture.subsampling import Subsampling
from ddn_core.engine.capture.tracing import traced_graph
from ddn_core.engine.krylov import is_worthwhile
from ddn_core.engine.losses import ExactRoot, Root

OPERATIONS_PER_SECOND = 1e11
"""Rate of matrix products on two current CPU cores; for the shares of the time only the ratios of the rates matter."""
BYTES_PER_SECOND = 1e10
"""Rate at which memory is read and written."""
SOLVER_OPERATIONS = {"eigh": 9.0, "krylov": 12.0, "cholesky": 0.34}
"""Operations over R³, or over R² · k for k leading pairs (Golub and Van Loan, sections 4.2, 8.3 and 10.3)."""
SOLVER_SLOWNESS = {"eigh": 6.0, "krylov": 2.0, "cholesky": 2.0}
"""Ratio of the rate of matrix products to the rate of each solver."""


@dataclass(frozen=True)
class StageEstimate:
    """Estimated cost of one stage.

    Attributes:
        group: Number of the group; `None` for a stage that all groups share.
        stage: `"backpropagation"`, names of a layer's parameters, `"eigensolver"`, or `"step"`.
        columns: Number of columns.
        method: Name of the contraction or the solver.
        operations: Number of operations; a multiplication and an addition count as one.
        bytes: Number of bytes that are held.
        share: Expected share of the time, from 0 to 1.
    """

    group: int | None
    stage: str
    columns: int
    method: str
    operations: float
    bytes: int
    share: float


@dataclass(frozen=True)
class GroupRequest:
    """The part of a step that a group needs.

    Attributes:
        names: Names of its parameters, by the `id` of the parameter.
        largest: Number of leading eigenpairs that are needed; `None` for all.
        is_solved: True if all directions have the same damping, so that a Cholesky solve gives the step.
    """

    names: Mapping[int, str]
    largest: int | None
    is_solved: bool


def estimate(
    model: Module,
    loss_function: Module,
    inputs: Tensor,
    targets: Tensor,
    groups: Sequence[GroupRequest],
    root: Root | None = None,
    subsampling: Subsampling | None = None,
    memory_budget: int | None = None,
) -> tuple[CapturePlan, list[StageEstimate]]:
    """Return the plan of a pass and the estimated cost of each stage of a step.

    Args:
        model: Model. Only a copy on the meta device is run.
        loss_function: Loss function.
        inputs: Inputs of a batch; only their shape and dtype are used.
        targets: Targets of the batch.
        groups: The parameter groups.
        root: Kind of curvature; the exact GGN by default.
        subsampling: Samples of gradient, directions and directional curvatures; all by default.
        memory_budget: Largest number of bytes that the plan may need; no limit by default.

    Raises:
        ArgumentError: A sample index is outside of the batch.
        CurvatureError: The loss is not supported.
        MemoryBudgetError: The smallest slices need more than the budget.
    """
    subsampling, root = subsampling or Subsampling(), root or ExactRoot()
    subsampling.check_in_batch(len(inputs))
    shadow, evaluate = _on_meta(model, loss_function)
    wanted = {
        id(own): WantedParameter(group.names[id(original)], own, number)
        for number, group in enumerate(groups)
        for own, original in zip(shadow.parameters(), model.parameters(), strict=True)
        if id(original) in group.names
    }
    traced = traced_graph(evaluate, inputs, targets, wanted)
    per_sample = root.per_sample(traced.samples.elements(traced.graph.shapes[traced.graph.output]))
    chosen = subsampling.of_batch(traced.samples.samples)
    in_span = root.spans_gradient and chosen.columns_cover_gradient
    plan = plan_capture(
        traced.graph,
        traced.destinations,
        {key: entry.group for key, entry in wanted.items()},
        per_sample,
        traced.dtype,
        traced.samples,
        chosen,
        in_span,
    ).within(memory_budget)
    names = [
        *(", ".join(wanted[id(own)].name for own in use.parameters) for use in traced.destinations.uses),
        *(wanted[key].name for key, _, _ in traced.destinations.parameters_below(traced.graph)),
    ]
    return plan, _stages(plan, groups, names)


def outputs_per_sample(model: Module, loss_function: Module, inputs: Tensor, targets: Tensor) -> int:
    """Return the number of model outputs for each sample, from shapes alone.

    Raises:
        CurvatureError: The loss is not supported.
    """
    shadow, evaluate = _on_meta(model, loss_function)
    wanted = {id(own): WantedParameter("", own, 0) for own in shadow.parameters() if own.requires_grad}
    traced = traced_graph(evaluate, inputs, targets, wanted)
    return traced.samples.elements(traced.graph.shapes[traced.graph.output])


def _on_meta(model: Module, loss_function: Module) -> tuple[Module, Callable[[Tensor, Tensor], Tensor]]:
    """Return a copy of the model on the meta device, and the loss of a batch there."""
    shadow, loss = copy.deepcopy(model).to("meta"), copy.deepcopy(loss_function).to("meta")

    def evaluate(inputs: Tensor, targets: Tensor) -> Tensor:
        result: Tensor = loss(shadow(inputs), targets)
        return result

    return shadow, evaluate


def _stages(plan: CapturePlan, groups: Sequence[GroupRequest], names: Sequence[str]) -> list[StageEstimate]:
    rows = [
        StageEstimate(
            None, "backpropagation", plan.columns, "chunks", plan.propagation_operations, plan.chunk_bytes, 0.0
        )
    ]
    moved = [float(plan.columns * plan.itemsize * plan.site_elements)]
    for number, group in enumerate(groups):
        own = [(planned, name) for planned, name in zip(plan.factors, names, strict=True) if planned.group == number]
        for planned, stage in own:
            method = planned.contraction if planned.storage == "structured" else "kept formed"
            rows.append(
                StageEstimate(
                    number,
                    stage,
                    plan.columns,
                    method,
                    planned.forming_operations + planned.gram_operations,
                    planned.bytes,
                    0.0,
                )
            )
            moved.append(2.0 * planned.bytes + (plan.columns**2 * plan.itemsize if method == "outer" else 0.0))
        size = sum(planned.size for planned, _ in own)
        columns = plan.gram_columns
        solver, operations = _solver(group, min(columns, size))
        side = f"{solver}, P = {size}" if size < columns else f"{solver}, R = {columns}"
        held = plan.gram_bytes_of(number)
        rows.append(StageEstimate(number, "eigensolver", columns, side, operations, held, 0.0))
        moved.append((SOLVER_SLOWNESS[solver] - 1) * operations * BYTES_PER_SECOND / OPERATIONS_PER_SECOND)
        combining = sum(planned.combination_operations for planned, _ in own)
        rows.append(StageEstimate(number, "step", plan.columns, "V · w", combining, size * plan.itemsize, 0.0))
        moved.append(float(sum(planned.bytes for planned, _ in own)))
    seconds = [
        row.operations / OPERATIONS_PER_SECOND + volume / BYTES_PER_SECOND
        for row, volume in zip(rows, moved, strict=True)
    ]
    total = sum(seconds) or 1.0
    return [
        StageEstimate(row.group, row.stage, row.columns, row.method, row.operations, row.bytes, spent / total)
        for row, spent in zip(rows, seconds, strict=True)
    ]


def _solver(group: GroupRequest, side: int) -> tuple[str, float]:
    """Return the name of the solver for a group, and its approximate number of operations.

    Args:
        group: Request of the group.
        side: Number of rows of the matrix that is decomposed or solved.
    """
    if group.is_solved:
        return "cholesky", SOLVER_OPERATIONS["cholesky"] * side**3
    if group.largest is not None and is_worthwhile(side, group.largest):
        return "krylov", SOLVER_OPERATIONS["krylov"] * side**2 * group.largest
    return "eigh", SOLVER_OPERATIONS["eigh"] * side**3

"""Estimated operations, bytes and shares of the time of a step, from shapes alone.

The model runs on torch's meta device: nothing is computed, and no memory of the model's size is allocated.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import Module

from ddn_core.engine.capture.factor_specs import FactorSpec, factor_specs
from ddn_core.engine.capture.loss import LOSSES
from ddn_core.engine.capture.plan import CapturePlan, plan_capture
from ddn_core.engine.capture.subsampling import Subsampling
from ddn_core.engine.capture.tape import computing_dtype
from ddn_core.engine.capture.tracing import traced_calls
from ddn_core.engine.krylov import is_worthwhile
from ddn_core.errors import CurvatureError

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


@torch.no_grad()
def estimate(
    model: Module,
    loss_function: Module,
    inputs: Tensor,
    targets: Tensor,
    groups: Sequence[GroupRequest],
    mc_samples: int = 0,
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
        mc_samples: Number of Monte-Carlo samples; 0 for the exact GGN.
        subsampling: Samples of gradient, directions and directional curvatures; all by default.
        memory_budget: Largest number of bytes that the plan may need; no limit by default.

    Raises:
        ArgumentError: A sample index is outside of the batch.
        CurvatureError: A layer or the loss is not supported.
        MemoryBudgetError: The smallest slices need more than the budget.
    """
    if type(loss_function) not in LOSSES:
        supported = ", ".join(kind.__name__ for kind in LOSSES)
        raise CurvatureError(f"loss function {type(loss_function).__name__} is not supported. Use one of {supported}.")
    subsampling = subsampling or Subsampling()
    subsampling.check_in_batch(len(inputs))
    shadow = copy.deepcopy(model).to("meta")
    numbers = {
        id(own): number
        for number, group in enumerate(groups)
        for own, original in zip(shadow.parameters(), model.parameters(), strict=True)
        if id(original) in group.names
    }
    calls, output = traced_calls(shadow, inputs.to("meta"))
    specs = factor_specs(calls, numbers)
    per_sample = mc_samples or output[0].numel()
    dtype = computing_dtype(output.dtype)
    spec_groups = [numbers[id(spec.parameters[0])] for spec in specs]
    chosen = subsampling.of_batch(len(inputs))
    in_span = not mc_samples and chosen.columns_cover_gradient
    plan = plan_capture(calls, specs, spec_groups, per_sample, dtype, chosen, in_span).within(memory_budget)
    return plan, _stages(plan, groups, _names(model, shadow, groups), specs)


@torch.no_grad()
def outputs_per_sample(model: Module, inputs: Tensor) -> int:
    """Return the number of model outputs for each sample, from shapes alone.

    Raises:
        CurvatureError: A layer is not supported.
    """
    _, output = traced_calls(copy.deepcopy(model).to("meta"), inputs.to("meta"))
    return output[0].numel()


def _names(model: Module, shadow: Module, groups: Sequence[GroupRequest]) -> dict[int, str]:
    """Return the names of the parameters of the meta copy, by `id`."""
    known = {key: name for group in groups for key, name in group.names.items()}
    pairs = zip(shadow.parameters(), model.parameters(), strict=True)
    return {id(own): known[id(original)] for own, original in pairs if id(original) in known}


def _stages(
    plan: CapturePlan, groups: Sequence[GroupRequest], names: Mapping[int, str], specs: Sequence[FactorSpec]
) -> list[StageEstimate]:
    rows = [
        StageEstimate(
            None, "backpropagation", plan.columns, "chunks", plan.propagation_operations, plan.chunk_bytes, 0.0
        )
    ]
    moved = [float(plan.columns * plan.itemsize * plan.slope_elements)]
    for number, group in enumerate(groups):
        own = [(planned, spec) for planned, spec in zip(plan.factors, specs, strict=True) if planned.group == number]
        for planned, spec in own:
            stage = ", ".join(names[id(parameter)] for parameter in spec.parameters)
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

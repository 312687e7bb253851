"""The table of `ddn estimate`: the cost of a step by group and layer."""

from __future__ import annotations

from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.filesize import decimal
from rich.table import Table
from torch import Tensor

from ddn_core.config import Config
from ddn_core.config.load import config_error
from ddn_core.engine import Context, GroupRequest, StageEstimate, Subsampling, estimate, outputs_per_sample, root_of
from ddn_core.errors import PluginError
from ddn_core.plugins.resolve import group_choice
from ddn_core.training.problem import checked_batches, load_problem, model_assignment, problem_label

UNITS = (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3))


def estimate_report(config: Config, source: str) -> RenderableType:
    """Return a table of the cost of each stage of a training step, without making one.

    Raises:
        ConfigError: The config has no problem, or its groups do not fit the model.
        CurvatureError: A layer or the loss is not supported, or the memory budget is too small.
    """
    if config.optimizer is not None:
        raise config_error(
            source,
            [f"optimizer: {config.optimizer.kind} of torch computes no curvature, so there is nothing to estimate"],
        )
    parts = load_problem(config, source)
    assignment, problems = model_assignment(config, parts.model)
    if problems:
        raise config_error(source, problems)
    inputs, targets = _first_batch(config, parts.train_batches)
    parameters = dict(parts.model.named_parameters())
    model = parts.model.to(getattr(torch, config.training.dtype))
    outputs = outputs_per_sample(model, parts.loss_function, inputs, targets)
    context = Context(outputs=outputs, samples=len(inputs))
    requests = []
    for group, names in zip(config.groups, assignment.members, strict=True):
        choice = group_choice(group.criterion, group.damping, "group")
        named = {id(parameters[name]): name for name in names if parameters[name].requires_grad}
        requests.append(GroupRequest(named, choice.largest(context), choice.uniform_damping(context) is not None))
    curvature = config.curvature
    budget = curvature.memory_budget
    plan, stages = estimate(
        model,
        parts.loss_function,
        inputs,
        targets,
        requests,
        root_of(curvature.mc_samples or 0, curvature.kind),
        Subsampling(curvature.subsampling_grad, curvature.subsampling_ggn, curvature.subsampling_lambdas),
        budget if isinstance(budget, int) else None,
    )
    table = Table(
        title=f"{source}: one step on a batch of {len(inputs)}",
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("group")
    table.add_column("stage", overflow="fold", min_width=15)
    table.add_column("columns", justify="right")
    table.add_column("how", no_wrap=True)
    for name in ("operations", "bytes", "share"):
        table.add_column(name, justify="right", no_wrap=True)
    for stage in stages:
        table.add_row(*_row(stage))
    total = sum(stage.operations for stage in stages)
    most = f"{_operations(total)} operations; at most {decimal(plan.bytes)} beyond the gradient's memory"
    return Group(table, most)


def _first_batch(config: Config, batches: Any) -> tuple[Tensor, Tensor]:
    for inputs, targets in checked_batches(batches, config):
        dtype = getattr(torch, config.training.dtype) if inputs.is_floating_point() else inputs.dtype
        return inputs.to(dtype), targets
    raise PluginError(f"{problem_label(config)} has no training batch.")


def _row(stage: StageEstimate) -> tuple[str, ...]:
    return (
        "all" if stage.group is None else str(stage.group),
        stage.stage,
        str(stage.columns),
        stage.method,
        _operations(stage.operations),
        decimal(stage.bytes),
        f"{stage.share:.0%}",
    )


def _operations(count: float) -> str:
    for unit, size in UNITS:
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.3g}"

"""The end of a backward pass: from the record of the pass to a `Capture`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor

from ddn_core.engine.capture.backpropagation import propagate
from ddn_core.engine.capture.backward_pass import BackwardPass
from ddn_core.engine.capture.completeness import (
    check_gradients_add_up,
    check_no_branch_lost,
    check_nothing_missed,
    gradient_of_pass,
)
from ddn_core.engine.capture.factor_specs import FactorSpec, factor_specs
from ddn_core.engine.capture.loss import LossCall, gradient_coefficients, loss_root, normalizer
from ddn_core.engine.capture.memory import free_bytes
from ddn_core.engine.capture.plan import plan_capture
from ddn_core.engine.capture.result import Capture
from ddn_core.engine.capture.subsampling import Subsampling
from ddn_core.engine.capture.tape import computing_dtype, key_of
from ddn_core.engine.factors import Columns, Factor, FormedColumns, ParameterLayout
from ddn_core.errors import CurvatureError


@dataclass(frozen=True)
class CaptureSettings:
    """Settings of the capture of a pass.

    Attributes:
        subsampling: Samples of the gradient, of the directions and of the directional curvatures.
        mc_samples: Number of Monte-Carlo samples; 0 for the exact GGN.
        generator: Returns the random generator for a device; `None` for torch's own.
        memory_budget: Number of bytes that curvature may use in addition to the gradient's memory; `"auto"` for the
            free memory, `None` for no limit.
    """

    subsampling: Subsampling
    mc_samples: int
    generator: Callable[[torch.device], Generator | None]
    memory_budget: int | Literal["auto"] | None = None

    def budget_on(self, device: torch.device) -> int | None:
        """Return the memory budget on a device, in bytes; `None` for no limit."""
        return free_bytes(device) if self.memory_budget == "auto" else self.memory_budget


def finish_capture(current: BackwardPass, settings: CaptureSettings) -> Capture:
    """Return the capture of a pass.

    Raises:
        CurvatureError: The factors do not cover every way in which the loss depends on the wanted parameters.
    """
    begun = time.perf_counter()
    chosen = settings.subsampling.of_batch(current.loss.samples)
    propagated = chosen.propagated_samples
    whole_gradient = settings.subsampling.grad is None
    dtype = computing_dtype(_widest_dtype(current))
    loss = current.loss.cast(dtype)
    groups = {key: wanted.group for key, wanted in current.wanted.items()}
    specs = factor_specs(current.calls, groups)
    check_nothing_missed(current)
    check_no_branch_lost(current)
    if whole_gradient:
        check_gradients_add_up(current, specs, dtype)
    can_be_in_span = not settings.mc_samples and chosen.columns_cover_gradient
    plan = plan_capture(
        current.calls,
        specs,
        [groups[id(spec.parameters[0])] for spec in specs],
        per_sample=settings.mc_samples or loss.output[0].numel(),
        dtype=dtype,
        chosen=chosen,
        in_span=can_be_in_span,
    ).within(settings.budget_on(loss.output.device))
    calls = current.calls if propagated is None else [call.select(propagated) for call in current.calls]
    selected = {id(call): other for call, other in zip(current.calls, calls, strict=True)}
    selected_specs = [FactorSpec(selected[id(spec.call)], spec.names, spec.must_form) for spec in specs]
    root = loss_root(loss, propagated, settings.mc_samples, settings.generator(loss.output.device))
    in_span = can_be_in_span and _in_span(current, loss, root, propagated)
    scale = _root_scale(current, len(chosen.ggn_samples))
    columns = propagate(calls, selected_specs, root * scale, key_of(current.loss.output), plan)
    gradients = [None if in_span else _gradients(current, spec, chosen.grad_samples, dtype) for spec in specs]
    coefficients = (
        _chosen(gradient_coefficients(loss), propagated) * (_gradient_scale(current) / scale) if in_span else None
    )
    indices = None if propagated is None else {sample: index for index, sample in enumerate(propagated)}
    return Capture(
        factors=_factors(specs, columns, gradients),
        columns_per_sample=root.shape[1],
        outputs=loss.output[0].numel(),
        samples=len(root),
        ggn_samples=_indices(chosen.ggn_samples, indices),
        lambda_samples=_indices(chosen.lambda_samples, indices),
        grad_samples=_indices(chosen.grad_samples, indices) if in_span else (),
        grad_count=len(chosen.grad_samples),
        coefficients=coefficients,
        gradient_scale=float(loss.samples) if loss.reduction == "mean" else 1.0,
        gradients={} if in_span or not whole_gradient else _own_gradients(current, specs, dtype),
        reduction=loss.reduction,
        loss=current.scale * float(loss.value),
        dtype=dtype,
        device=loss.output.device,
        seconds=time.perf_counter() - begun,
    )


def _widest_dtype(current: BackwardPass) -> torch.dtype:
    dtype = current.loss.output.dtype
    for wanted in current.wanted.values():
        dtype = torch.promote_types(dtype, wanted.parameter.dtype)
    return dtype


def _root_scale(current: BackwardPass, ggn_count: int) -> float:
    """Return the factor that scales the root, so that `G = V Vᵀ` for the samples of the GGN."""
    loss = current.loss
    share = loss.samples / ggn_count if loss.reduction == "mean" else 1.0
    return math.sqrt(current.scale * share / normalizer(loss))


def _gradient_scale(current: BackwardPass) -> float:
    """Return the factor that makes the mean (or sum) of gradients of the unnormalized loss the gradient of the loss."""
    loss = current.loss
    return current.scale * (loss.samples if loss.reduction == "mean" else 1) / normalizer(loss)


def _indices(samples: Sequence[int], indices: Mapping[int, int] | None) -> Sequence[int]:
    """Return the indices of samples among those whose columns are propagated."""
    return samples if indices is None else tuple(indices[sample] for sample in samples)


def _chosen(tensor: Tensor, samples: Sequence[int] | None) -> Tensor:
    """Return the rows of some samples; `None` means all samples."""
    return tensor if samples is None else tensor[list(samples)]


def _in_span(current: BackwardPass, loss: LossCall, root: Tensor, samples: Sequence[int] | None) -> bool:
    """Return whether root and coefficients give the gradient at the model output, for the samples of the root."""
    coefficients = _chosen(gradient_coefficients(loss), samples)
    if current.scale == 0 or not bool(torch.isfinite(coefficients).all()) or current.output_gradient is None:
        return False
    found = torch.einsum("na,na...->n...", coefficients, root)
    expected = _chosen(current.output_gradient, samples).to(found.dtype) * (normalizer(loss) / current.scale)
    precision = torch.finfo(current.loss.output.dtype).eps ** 0.5
    return bool((found - expected).abs().max() <= precision * expected.abs().max())


def _gradients(current: BackwardPass, spec: FactorSpec, grad_samples: Sequence[int], dtype: torch.dtype) -> Columns:
    """Return the per-sample gradients of a factor, for the samples of the gradient."""
    columns = spec.per_sample_gradients(dtype)
    return columns if len(grad_samples) == current.loss.samples else columns.select(grad_samples)


def _own_gradients(current: BackwardPass, specs: Sequence[FactorSpec], dtype: torch.dtype) -> dict[int, Tensor]:
    """Return copies of the changes of the gradients in the pass, since `.grad` may change before the step."""
    found = {}
    for parameter in (parameter for spec in specs for parameter in spec.parameters):
        gradient = gradient_of_pass(current, parameter)
        if gradient is None:
            name = current.wanted[id(parameter)].name
            raise CurvatureError(f"{name} has no dense gradient. Use sparse=False for its layer.")
        found[id(parameter)] = gradient.to(dtype, copy=True)
    return found


def _factors(
    specs: Sequence[FactorSpec], columns: Sequence[Columns], gradients: Sequence[Columns | None]
) -> tuple[Factor, ...]:
    """Return the factors. For a parameter that several layers share, the formed columns of the layers are added up."""
    factors: dict[tuple[int, ...], Factor] = {}
    for spec, root, gradient in zip(specs, columns, gradients, strict=True):
        ids = tuple(id(parameter) for parameter in spec.parameters)
        if not spec.must_form:
            factors[ids] = Factor(ids, root, gradient)
            continue
        known = factors.get(ids)
        plain_root = _plain(spec, root, None if known is None else known.root)
        plain_gradient = None if gradient is None else _plain(spec, gradient, None if known is None else known.gradient)
        factors[ids] = Factor(ids, plain_root, plain_gradient)
    return tuple(factors.values())


def _plain(spec: FactorSpec, columns: Columns, known: Columns | None) -> FormedColumns:
    """Return columns as vectors in the space of a factor's one parameter, added to the columns from other layers."""
    values = columns.layout.split(columns.formed())[0].flatten(1)
    if known is not None:
        values = values + known.formed()
    layout = ParameterLayout(spec.parameters[0].shape)
    return FormedColumns(values.reshape(columns.samples, columns.per_sample, -1).contiguous(), layout)

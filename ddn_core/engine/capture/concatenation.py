"""Concatenation of captures: micro-batches of gradient accumulation as one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ddn_core.engine.capture.result import Capture
from ddn_core.engine.factors import Columns, ConcatenatedColumns, Factor
from ddn_core.errors import CurvatureError


def concatenate(captures: Sequence[Capture]) -> Capture:
    """Return the capture of the concatenated batch.

    The caller has multiplied the loss of each micro-batch by its share of the batch, as for accumulated gradients: a
    mean-reduced loss by the share of its samples, `N_i / N`.

    Args:
        captures: One or more captures of the same parameters with the same settings.

    Raises:
        CurvatureError: The captures differ in their parameters, settings, dtype or device.
    """
    first = captures[0]
    if len(captures) == 1:
        return first
    for other in captures[1:]:
        _check_fit(first, other)
    in_span = all(capture.coefficients is not None for capture in captures)
    total = sum(capture.grad_count for capture in captures)
    # per-sample gradients are multiplied by the number of samples: of the whole batch, not of the micro-batch
    ratios = [total / capture.grad_count if first.reduction == "mean" else 1.0 for capture in captures]
    starts = [sum(capture.samples for capture in captures[:index]) for index in range(len(captures))]
    coefficients = [
        capture.coefficients * ratio
        for capture, ratio in zip(captures, ratios, strict=True)
        if capture.coefficients is not None
    ]
    return replace(
        first,
        factors=tuple(
            Factor(
                factors[0].parameters,
                ConcatenatedColumns([factor.root for factor in factors]),
                None if in_span else ConcatenatedColumns(_gradients(factors, captures, ratios)),
            )
            for factors in zip(*(capture.factors for capture in captures), strict=True)
        ),
        samples=sum(capture.samples for capture in captures),
        ggn_samples=_shifted([capture.ggn_samples for capture in captures], starts),
        lambda_samples=_shifted([capture.lambda_samples for capture in captures], starts),
        grad_samples=_shifted([capture.grad_samples for capture in captures], starts) if in_span else (),
        grad_count=total,
        gradient_scale=1.0,  # the gradients below include the scale of each capture
        coefficients=torch.cat(coefficients) if in_span else None,
        gradients={} if in_span else _sums(captures),
        loss=sum(capture.loss for capture in captures),
        seconds=sum(capture.seconds for capture in captures),
        heaviest=max(capture.heaviest for capture in captures),
    )


def _check_fit(first: Capture, other: Capture) -> None:
    names = ("columns_per_sample", "reduction", "dtype", "device")
    different = [name for name in names if getattr(first, name) != getattr(other, name)]
    if [factor.parameters for factor in first.factors] != [factor.parameters for factor in other.factors]:
        different.append("parameters that the loss reaches")
    if different:
        raise CurvatureError(
            f"the accumulated batches differ in their {different[0].replace('_', ' ')}. Use the same model, "
            "loss function and curvature settings for all of them."
        )


def _shifted(indices: Sequence[Sequence[int]], starts: Sequence[int]) -> tuple[int, ...]:
    return tuple(start + index for own, start in zip(indices, starts, strict=True) for index in own)


def _gradients(factors: Sequence[Factor], captures: Sequence[Capture], ratios: Sequence[float]) -> list[Columns]:
    """Return the per-sample gradients of each capture, either its own or combinations of its root's columns."""
    found = []
    for factor, capture, ratio in zip(factors, captures, ratios, strict=True):
        if factor.gradient is not None:
            scale = capture.zeros(factor.gradient.samples, 1) + ratio * capture.gradient_scale
            found.append(factor.gradient.contracted(scale))
        else:
            assert capture.coefficients is not None
            chosen = list(capture.grad_samples)
            found.append(factor.root.select(chosen).contracted(capture.coefficients[chosen] * ratio))
    return found


def _sums(captures: Sequence[Capture]) -> dict[int, Tensor]:
    """Return the sums of the captures' gradients; empty if a capture has none."""
    if not all(capture.gradients for capture in captures):
        return {}
    first, *rest = captures
    return {
        key: torch.stack([gradient, *(capture.gradients[key] for capture in rest)]).sum(0)
        for key, gradient in first.gradients.items()
    }

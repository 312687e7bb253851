"""The check at the end of a backward pass that the capture has all of the gradient, so that no error stays silent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from ddn_core.engine.capture.destinations import WantedParameter
from ddn_core.engine.factors import Columns, ProductColumns
from ddn_core.errors import CurvatureError

ROUNDING = 16.0
"""Allowed deviation of a gradient that cancels, as before batch normalization, in rounding errors of all gradients."""


def check_gradients(
    wanted: Mapping[int, WantedParameter],
    gradients: Mapping[tuple[int, ...], Columns],
    totals: Mapping[int, Tensor | None],
    before: Mapping[int, Tensor | None],
    dtype: torch.dtype,
    precision: float,
    rounding: Callable[[], Tensor],
    magnitude: float = 1.0,
) -> None:
    """Check that the per-sample gradients of each parameter add up to the change of its gradient in the pass.

    Args:
        wanted: The wanted parameters by `id`.
        gradients: Per-sample gradients by the `id`s of their parameters.
        totals: Change of the gradient of each parameter by `id`; `None` if there is no dense gradient.
        before: Gradient of each parameter before the pass by `id`; `None` if there was none.
        dtype: Dtype that curvature is computed in.
        precision: Machine precision of the coarsest dtype in the graph.
        rounding: Returns the relative rounding error of the gradient at the model output, which is asked for only if
            the gradients do not add up otherwise.
        magnitude: Power of two near the loss by which all gradients are divided, so that their norms are in range.

    Raises:
        CurvatureError: The gradients of a parameter do not add up.
    """
    if magnitude != 1:
        device = next((one.device for one in totals.values() if one is not None), None)
        gradients = {
            keys: columns.contracted(torch.full((columns.samples, 1), 1 / magnitude, dtype=dtype, device=device))
            for keys, columns in gradients.items()
        }
        totals, before = (
            {key: None if one is None else one.to(dtype) / magnitude for key, one in some.items()}
            for some in (totals, before)
        )
    compared, deviations, scales = [], [], []
    for keys, columns in gradients.items():
        own = [totals[key] for key in keys]
        known = [gradient for gradient in own if gradient is not None]
        if len(known) < len(own):
            continue
        deviation, scale = _deviation(columns, tuple(gradient.to(dtype)[None] for gradient in known))
        for key in keys:
            if (earlier := before[key]) is not None:
                scale = scale + torch.linalg.vector_norm(earlier)
        compared.append(keys)
        deviations.append(deviation)
        scales.append(scale)
    if not compared:
        return
    size = torch.stack([torch.linalg.vector_norm(one).to(dtype) for one in totals.values() if one is not None]).norm()
    deviation, scale = torch.stack(deviations), torch.stack(scales)
    bounds = precision**0.5 * scale + ROUNDING * precision * size
    if not bool((deviation > bounds).any()):
        return
    wrong = deviation > bounds + ROUNDING * rounding().to(scale.dtype) * scale
    if bool(wrong.any()):
        names = " and ".join(wanted[key].name for key in compared[wrong.tolist().index(True)])
        raise CurvatureError(
            f"the per-sample gradients of {names} do not add up to its gradient, so that its curvature would be wrong. "
            "A hook on the parameter or on a hidden tensor changes the gradient, or something other than the loss "
            "depends on the parameter, or DistributedDataParallel averages gradients over processes. Remove the cause; "
            "to limit steps, use `max_step_norm`."
        )


def check_reached(
    wanted: Mapping[int, WantedParameter],
    reached: Iterable[tuple[int, ...]],
    totals: Mapping[int, Tensor | None],
    before: Mapping[int, Tensor | None],
) -> None:
    """Check that every parameter with a gradient takes part in the graph.

    Args:
        wanted: The wanted parameters by `id`.
        reached: The `id`s of the parameters of each factor.
        totals: Change of the gradient of each parameter by `id`; `None` if there is no dense gradient.
        before: Gradient of each parameter before the pass by `id`; `None` if there was none.

    Raises:
        CurvatureError: A parameter has a gradient and no factor, as inside of a checkpoint with `use_reentrant=True`.
    """
    with_factor = {key for keys in reached for key in keys}
    for key, entry in wanted.items():
        total = totals.get(key)
        if key not in with_factor and total is not None and (before.get(key) is None or bool(total.any())):
            raise CurvatureError(
                f"{entry.name} has a gradient but no curvature: it takes part in the loss outside of its graph, as "
                "inside of a checkpoint with use_reentrant=True. Use use_reentrant=False."
            )


def check_only_loss(found: Tensor, expected: Tensor) -> None:
    """Check that the gradient at the model output is that of the loss function alone.

    Args:
        found: Gradient that reached the model output in the pass, `[*output]`.
        expected: Gradient of the loss function, `[*output]`.

    Raises:
        CurvatureError: A term in addition to the loss depends on the output; its curvature would be missing.
    """
    tolerance = torch.finfo(found.dtype).eps ** 0.5
    if bool((found - expected).abs().max() > tolerance * expected.abs().max()):
        raise CurvatureError(
            "the gradient at the model output is not that of the loss module: something else depends on the output, "
            "too, and its curvature would be missing. Call backward on the result of the loss module, or on a "
            "constant times that result."
        )


def _deviation(columns: Columns, total: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Return the deviation of the columns' sum from a gradient, and the scale to compare the deviation with."""
    if isinstance(columns, ProductColumns):
        return columns.check_sum(total)
    norm = torch.linalg.vector_norm
    found = columns.layout.join(columns.combine(total[0].new_ones(columns.count, 1)))
    expected = columns.layout.join(total)
    return norm(found - expected), columns.count**0.5 * norm(found) + norm(expected) + norm(columns.formed())

"""The whole way from a capture to a damped step of one group, in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ddn_core.engine.capture import Capture
from ddn_core.engine.directions import Directions, EngineSource
from ddn_core.engine.gram import GroupCurvature
from ddn_core.engine.spectrum import eigendecompose
from ddn_core.engine.step import DampedDirections


@torch.no_grad()
def damped_newton_directions(
    capture: Capture,
    parameters: Sequence[Tensor],
    criterion: Callable[[Directions], Tensor],
    damping: Callable[[Directions], Tensor],
    largest: int | None = None,
) -> DampedDirections:
    """Return the chosen and damped directions of one group; their `step()` is the Newton step.

    Args:
        capture: What the backward pass gave.
        parameters: The group's parameters.
        criterion: Gives the indices of the directions to keep; not asked where there is none.
        damping: Gives the dampings of the kept directions, `[K]`; not asked where none is kept.
        largest: Number of leading eigenpairs that the criterion needs; all by default.
    """
    curvature = GroupCurvature.of(capture, parameters)
    spectrum = eigendecompose(curvature.gram(), largest)
    directions = Directions(
        spectrum.evals, spectrum.evecs, spectrum.all_evals, capture.reduction, EngineSource(curvature)
    )
    chosen = directions.select(criterion(directions)) if len(directions) else directions
    return DampedDirections.of(chosen, damping(chosen) if len(chosen) else chosen.evals)

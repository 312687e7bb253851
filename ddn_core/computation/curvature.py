"""`curvature`: eigenvalues, directions, directional gradients and curvatures of a loss, in one call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor

from ddn_core.engine import (
    CaptureSettings,
    CurvatureKind,
    Directions,
    PlanStore,
    Subsampling,
    WantedParameter,
    captured_gradient,
    group_directions,
    root_of,
)
from ddn_core.errors import ArgumentError
from ddn_core.generators import DeviceGenerators


def curvature(
    loss: Tensor,
    params: Iterable[Tensor] | Iterable[tuple[str, Tensor]],
    *,
    largest: int | None = None,
    samples: int | None = None,
    mc_samples: int = 0,
    kind: CurvatureKind | None = None,
    seed: int | None = None,
    subsampling_grad: Sequence[int] | None = None,
    subsampling_ggn: Sequence[int] | None = None,
    subsampling_lambdas: Sequence[int] | None = None,
    memory_budget: int | Literal["auto"] | None = "auto",
    retain_graph: bool = False,
) -> Directions:
    """Return the curvature of a loss of any model: eigenpairs of the GGN, and derivatives along its eigenvectors.

    The generalized Gauss-Newton matrix is that of all given parameters together. No `.grad` is written.

    Example:
        >>> loss = torch.nn.functional.cross_entropy(model(X), y)
        >>> directions = curvature(loss, model.parameters(), largest=10)
        >>> directions.evals, directions.gammas, directions.lambdas
        >>> directions.eigenvectors()  # a tensor [K, *shape] for each parameter

    Args:
        loss: Loss, a scalar with a graph.
        params: Parameters, with or without names.
        largest: Number of leading directions; all that are not numerically zero by default.
        samples: Number of samples in the batch; read from the model output by default.
        mc_samples: Number of Monte-Carlo samples of the loss Hessian; 0 for the exact loss Hessian.
        kind: Kind of curvature, such as `"ggn-aligned"`; by default `"ggn-mc"` with Monte-Carlo samples, `"ggn"`
            without.
        seed: Seed of the Monte-Carlo samples; by default they come from torch's own generator.
        subsampling_grad: Indices of the samples in the gradient; all by default.
        subsampling_ggn: Indices of the samples in the GGN; all by default.
        subsampling_lambdas: Indices of the samples in the directional curvatures; those of the GGN by default.
        memory_budget: Largest number of bytes in addition to the gradient's memory; `"auto"` for the free memory,
            `None` for no limit.
        retain_graph: Whether the graph is kept for a backward pass.

    Returns:
        Directions with `evals [K]`, ascending, `gammas [N_grad, K]` and `lambdas [N_lambdas, K]`, computed when first
        read.

    Raises:
        ArgumentError: There are no parameters, an index is wrong, or the kind is unknown or draws no samples.
        CurvatureError: The loss is not supported.
        MemoryBudgetError: The curvature does not fit the memory budget.
        NonFiniteError: The loss is not finite.
    """
    entries = [item if isinstance(item, tuple) else (f"parameter {place}", item) for place, item in enumerate(params)]
    if not entries:
        raise ArgumentError("there are no parameters. Pass model.parameters() of a model that has some.")
    wanted = {id(own): WantedParameter(name, own, 0) for name, own in entries}
    subsampling = Subsampling(subsampling_grad, subsampling_ggn, subsampling_lambdas)
    settings = CaptureSettings(subsampling, root_of(mc_samples, kind), DeviceGenerators(seed), memory_budget)
    capture = captured_gradient(loss, wanted, settings, PlanStore(), samples, retain_graph)
    with torch.autocast(capture.device.type, enabled=False):
        return group_directions(capture, [own for _, own in entries], largest=lambda context: largest)

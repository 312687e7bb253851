"""A backward pass with curvature as one function call."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal

import torch
from torch import Generator, Tensor

from ddn_core.engine.capture.backward_pass import CurvaturePass
from ddn_core.engine.capture.destinations import WantedParameter
from ddn_core.engine.capture.interception import backward_as_usual
from ddn_core.engine.capture.plan import PlanStore
from ddn_core.engine.capture.result import Capture
from ddn_core.engine.capture.settings import CaptureSettings
from ddn_core.engine.capture.subsampling import Subsampling
from ddn_core.engine.losses import CurvatureKind, root_of
from ddn_core.errors import CurvatureError


def captured_backward(
    loss: Tensor,
    wanted: Mapping[int, WantedParameter],
    settings: CaptureSettings,
    plans: PlanStore,
    samples: int | None = None,
    gradient: Tensor | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Collection[Tensor] | None = None,
) -> Capture:
    """Run the backward pass of a loss, and return its capture.

    Args:
        loss: Loss, a scalar with a graph.
        wanted: The wanted parameters by `id`.
        settings: Settings of the capture.
        plans: Plans of earlier passes.
        samples: Number of samples in the batch; found in the graph by default.
        gradient: Constant by which the loss is multiplied, as in `Tensor.backward`.
        retain_graph: As in `Tensor.backward`.
        create_graph: As in `Tensor.backward`.
        inputs: As in `Tensor.backward`: the tensors whose gradients are written. Others get no curvature, either.

    Raises:
        CurvatureError: The loss is not supported; no gradient has been written. Or the gradients are not those of the
            loss alone, after they were written.
        NonFiniteError: The loss is not finite; no gradient has been written.
    """
    if inputs is not None:
        written = {id(tensor) for tensor in ([inputs] if isinstance(inputs, Tensor) else inputs)}
        wanted = {key: entry for key, entry in wanted.items() if key in written}
    scale = 1.0 if gradient is None else gradient.detach()
    own = CurvaturePass(loss, wanted, settings, plans, scale, samples)

    def run() -> None:
        torch.autograd.backward(loss, gradient, retain_graph, create_graph, inputs=inputs)  # type: ignore[arg-type]

    return _captured(own, run)


def captured_gradient(
    loss: Tensor,
    wanted: Mapping[int, WantedParameter],
    settings: CaptureSettings,
    plans: PlanStore,
    samples: int | None = None,
    retain_graph: bool = False,
) -> Capture:
    """Return the capture of a loss without writing any `.grad`.

    Args:
        loss: Loss, a scalar with a graph.
        wanted: The wanted parameters by `id`.
        settings: Settings of the capture.
        plans: Plans of earlier passes.
        samples: Number of samples in the batch; found in the graph by default.
        retain_graph: Whether the graph is kept for another backward pass.

    Raises:
        CurvatureError: The loss is not supported.
        NonFiniteError: The loss is not finite.
    """
    own = CurvaturePass(loss, wanted, settings, plans, samples=samples)

    def run() -> dict[int, Tensor | None]:
        parameters = [entry.parameter for entry in wanted.values()]
        found = torch.autograd.grad(loss, parameters, retain_graph=retain_graph, allow_unused=True)
        return dict(zip(wanted, found, strict=True))

    return _captured(own, run)


_MESSAGES = {
    "donated buffers": "the model was compiled with donated buffers, which its first backward pass overwrites, but "
    "curvature takes several passes. Set `torch._functorch.config.donated_buffer = False` before torch.compile.",
    "escaped from inside a function being vmapped": "a tensor in the graph retains its gradient (retain_grad), which "
    "the passes that carry the columns would change. Take its gradient by torch.autograd.grad, or by a hook, before "
    "this pass.",
}
"""Messages in place of torch's, by a part of torch's message."""


def _captured(own: CurvaturePass, run: Callable[[], Mapping[int, Tensor | None] | None]) -> Capture:
    """Run a backward pass with curvature.

    Args:
        own: The pass.
        run: Runs the backward pass itself, and returns the gradients if it does not write them.

    Raises:
        CurvatureError: The graph does not allow several backward passes.
    """
    try:
        own.begin()
        with own.record(), backward_as_usual():
            gradients = run()
    except RuntimeError as error:
        for part, message in _MESSAGES.items():
            if part in str(error):
                raise CurvatureError(message) from error
        raise
    return own.finish(gradients)


def capture_loss(
    loss: Tensor,
    parameters: Sequence[Tensor],
    samples: int | None = None,
    mc_samples: int = 0,
    kind: CurvatureKind | None = None,
    subsampling_grad: Sequence[int] | None = None,
    subsampling_ggn: Sequence[int] | None = None,
    subsampling_lambdas: Sequence[int] | None = None,
    generator: Generator | None = None,
    memory_budget: int | Literal["auto"] | None = "auto",
) -> Capture:
    """Run a backward pass, and return its capture for one group of parameters.

    Args:
        loss: Loss, a scalar with a graph.
        parameters: Parameters of the group.
        samples: Number of samples in the batch; found in the graph by default.
        mc_samples: Number of Monte-Carlo samples; 0 for none.
        kind: Kind of curvature; by default `"ggn-mc"` with Monte-Carlo samples, `"ggn"` without.
        subsampling_grad: Indices of the samples in the gradient; all by default.
        subsampling_ggn: Indices of the samples in the GGN; all by default.
        subsampling_lambdas: Indices of the samples in the directional curvatures; those of the GGN by default.
        generator: Random generator of the Monte-Carlo samples; torch's own by default.
        memory_budget: Number of bytes for the curvature; `"auto"` for the free memory, `None` for no limit.
    """
    wanted = {id(own): WantedParameter(f"parameter {place}", own, 0) for place, own in enumerate(parameters)}
    settings = CaptureSettings(
        Subsampling(subsampling_grad, subsampling_ggn, subsampling_lambdas),
        root_of(mc_samples, kind),
        lambda device: generator,
        memory_budget,
    )
    return captured_backward(loss, wanted, settings, PlanStore(), samples)

"""GGN and step of small models on a device, against float64 matrices on the CPU and against float32 on the CPU.

The reference differentiates all outputs of the batch with plain autograd (`ddn_core.testing`), whatever a model does
between samples. Of Monte-Carlo targets, it uses those that were drawn on the device, since generators of different
devices draw different numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from math import isfinite, sqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.architectures.small import SMALL_MODELS
from benchmarks.measuring.failure import failure_of
from benchmarks.measuring.training_steps import on_device
from benchmarks.problems import Batch
from ddn_core import DirectionalDampedNewton
from ddn_core.engine import GroupCurvature, capture_loss
from ddn_core.engine.losses import recognize
from ddn_core.generators import DeviceGenerators
from ddn_core.testing import DenseTwin, dense_ggn

_SEED = 0
_WARM_UP = 3
_DAMPING = 1.0
_NULL = 1e-9


@dataclass(frozen=True)
class Found:
    """GGN, `[P, P]`, and damped Newton step, `[P]`, along all directions, in float64 on the CPU."""

    ggn: Tensor
    step: Tensor


def verify_models(names: list[str], device: str) -> dict[str, Any]:
    """Return the relative errors of each small model, or its failure.

    Args:
        names: Names of small models.
        device: Device to verify.
    """
    if torch.device(device).type == "cuda":
        torch.backends.cudnn.allow_tf32 = False  # convolutions would keep ten bits of each factor only
    found: dict[str, Any] = {}
    for name in names:
        try:
            found[name] = errors_of_model(name, device)
        except Exception as error:
            found[name] = failure_of(error)
    return found


def errors_of_model(name: str, device: str) -> dict[str, Any]:
    """Return the relative errors of GGN and step, against the reference and against the CPU.

    With Monte-Carlo samples there are no errors against the CPU, which draws other targets.

    Args:
        name: Name of a small model.
        device: Device to verify.
    """
    mc_samples = SMALL_MODELS[name].mc_samples
    batch = on_device(SMALL_MODELS[name].make(), device)
    drawn = drawn_targets(batch, device) if mc_samples else None
    expected = reference(SMALL_MODELS[name].make(), drawn)
    actual = by_engine(batch, mc_samples, device)
    errors = {"ggn": _error(actual.ggn, expected.ggn), "step": _error(actual.step, expected.step)}
    if not mc_samples:
        cpu = by_engine(SMALL_MODELS[name].make(), mc_samples, "cpu")
        errors |= {"ggn to cpu": _error(actual.ggn, cpu.ggn), "step to cpu": _error(actual.step, cpu.step)}
    return errors


def by_engine(batch: Batch, mc_samples: int, device: str) -> Found:
    """Return GGN and step.

    An exact step is that of a plan which was kept and is not checked any more; a Monte-Carlo step is the first one,
    whose draws are those of the GGN.

    Args:
        batch: Batch with its model, on the device; the model is changed.
        mc_samples: Number of Monte-Carlo samples; 0 for the exact GGN.
        device: Device of the batch.
    """
    own = deepcopy(batch)
    parameters = list(own.model.parameters())
    generator = DeviceGenerators(_SEED)(torch.device(device))
    capture = capture_loss(own.loss(), parameters, mc_samples=mc_samples, generator=generator)
    curvature = GroupCurvature.of(capture, parameters)
    identity = torch.eye(len(curvature.formed()), dtype=capture.dtype, device=capture.device)
    columns = torch.cat([part.flatten(1) for part in curvature.combine(identity)], dim=1).double().cpu()
    kind = {"kind": "ggn-mc", "mc_samples": mc_samples, "seed": _SEED} if mc_samples else {}
    optimizer = DirectionalDampedNewton(batch.model.parameters(), damping=1.0, curvature=kind)
    before = _flat(list(batch.model.parameters()))
    for rate in [1.0] if mc_samples else [0.0] * _WARM_UP + [1.0]:
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        optimizer.backward(batch.loss())
        optimizer.step()
    return Found(columns.T @ columns, (_flat(list(batch.model.parameters())) - before).double().cpu())


def drawn_targets(batch: Batch, device: str) -> Tensor:
    """Return the targets that the first step with one Monte-Carlo sample draws, one for each token.

    The root of the sampled loss Hessian is negative at the drawn class, and nowhere else.

    Args:
        batch: Batch with its model.
        device: Device of the batch.
    """
    term = recognize(batch.loss(), lambda node: True).term
    root = term.sampled(1, DeviceGenerators(_SEED)(torch.device(device)))
    return root[0].argmin(-1).cpu()


def reference(batch: Batch, drawn: Tensor | None = None) -> Found:
    """Return GGN and step in float64 from dense matrices, without the engine.

    Args:
        batch: Batch with its model on the CPU.
        drawn: Drawn targets, one for each token; by default the GGN is exact.
    """
    inputs = batch.inputs.double() if batch.inputs.is_floating_point() else batch.inputs
    batch = replace(batch, model=deepcopy(batch.model).double(), inputs=inputs)
    parameters = list(batch.model.parameters())
    gradient = _flat(torch.autograd.grad(batch.loss(), parameters))
    if drawn is None:
        whole, loss_function = _Whole(batch.model), _WholeLoss(batch.loss_function)
        ggn = dense_ggn(whole, loss_function, batch.inputs[None], batch.targets[None])
    else:
        losses = functional.cross_entropy(batch.model(batch.inputs).flatten(0, -2), drawn, reduction="none")
        of_samples = losses.reshape(len(batch.inputs), -1).sum(1) / sqrt(len(losses))
        rows = torch.stack([_flat(torch.autograd.grad(one, parameters, retain_graph=True)) for one in of_samples])
        ggn = rows.T @ rows
    twin = DenseTwin.of(gradient[None], ggn[None], "sum")
    kept = [index for index, value in enumerate(twin.evals) if value > _NULL * twin.evals.max()]
    return Found(ggn, twin.step(kept, _DAMPING))


class _Whole(nn.Module):
    """A model for which the whole batch is one sample: `[1, N, ...]`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.model(inputs[0])
        return outputs[None]


class _WholeLoss(nn.Module):
    """The loss of such a model."""

    reduction = "sum"

    def __init__(self, loss_function: nn.Module) -> None:
        super().__init__()
        self.loss_function = loss_function

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        loss: Tensor = self.loss_function(outputs[0], targets[0])
        return loss


def _flat(values: Sequence[Tensor]) -> Tensor:
    return torch.cat([value.detach().flatten() for value in values])


def _error(actual: Tensor, expected: Tensor) -> float | None:
    """Return the relative error; `None` if it is not finite."""
    error = float((actual - expected).norm() / expected.norm())
    return error if isfinite(error) else None

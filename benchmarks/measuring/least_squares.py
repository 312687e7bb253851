"""The curve-fitting example of `torch-levenberg-marquardt`: an MLP 1-20-1 with tanh, 1000 samples, squared error.

Their matrix is `JᵀJ / N`. Ours is the GGN of the mean squared error, which is twice that, so twice their damping gives
the same step. Their step evaluates the loss afterwards, to accept or reject the step. Here, ours does so, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measuring.failure import failed, failure_of
from benchmarks.measuring.timing import time_in_turns
from ddn_core import DirectionalDampedNewton

_POINTS, _SAMPLES = 20_000, 1_000
_THEIR_DAMPING = 1e-3
_SEED = 0


class OurFit:
    """`ddn_core.DirectionalDampedNewton` with all directions and the same damping for each."""

    def __init__(self, device: str) -> None:
        self._inputs, self._targets = _batch(device)
        self.model = _model().to(device)
        self._loss_function = nn.MSELoss()
        self._optimizer = DirectionalDampedNewton(
            self.model.named_parameters(),
            groups=[
                {
                    "params": ["*"],
                    "criterion": {"kind": "all"},
                    "damping": {"kind": "constant", "value": 2 * _THEIR_DAMPING},
                }
            ],
        )
        self._start = [parameter.detach().clone() for parameter in self.model.parameters()]

    def step(self) -> None:
        """Make a step, and evaluate the loss afterwards."""
        self._optimizer.zero_grad()
        self._optimizer.backward(self._loss_function(self.model(self._inputs), self._targets))
        self._optimizer.step()
        with torch.no_grad():
            float(self._loss_function(self.model(self._inputs), self._targets))

    @torch.no_grad()
    def restore(self) -> None:
        """Restore the initial parameters."""
        for parameter, start in zip(self.model.parameters(), self._start, strict=True):
            parameter.copy_(start)


class TheirFit:
    """`torch_levenberg_marquardt`, with the settings of its example.

    Raises:
        ModuleNotFoundError: The package is not installed.
    """

    def __init__(self, device: str) -> None:
        import torch_levenberg_marquardt as tlm

        self._inputs, self._targets = _batch(device)
        self.model = _model().to(device)
        self._trainer = tlm.training.LevenbergMarquardtModule(
            model=self.model,
            loss_fn=tlm.loss.MSELoss(),
            learning_rate=1.0,
            attempts_per_step=10,
            solve_method="qr",
            damping_strategy=tlm.damping.StandardDampingStrategy(starting_value=_THEIR_DAMPING),
        )
        self._start = self._trainer.flat_params.clone()
        self.attempts = 0

    def step(self) -> None:
        """Make a step, which tries one damping in each attempt."""
        *_, logs = self._trainer.training_step(self._inputs, self._targets)
        self.attempts = logs["attempts"]

    @torch.no_grad()
    def restore(self) -> None:
        """Restore the initial parameters and the initial damping."""
        self._trainer.flat_params.copy_(self._start)
        self._trainer.backup_parameters()
        self._trainer.damping_strategy.reset()


def time_fits(repetitions: int, device: str) -> dict[str, Any]:
    """Return the times of both steps, and their relative errors against a step in float64.

    Args:
        repetitions: Number of turns.
        device: Device of models and data.
    """
    makers: dict[str, Callable[[str], OurFit | TheirFit]] = {"ours": OurFit, "theirs": TheirFit}
    fits: dict[str, OurFit | TheirFit] = {}
    outcomes: dict[str, Any] = {}
    for name, make in makers.items():
        try:
            fits[name] = make(device)
        except Exception as error:
            outcomes[name] = failure_of(error)
    steps: dict[str, Callable[[], Any]] = {name: fit.step for name, fit in fits.items()}
    restores: dict[str, Callable[[], Any]] = {name: fit.restore for name, fit in fits.items()}
    outcomes |= time_in_turns(steps, repetitions, device, restores)
    reference = reference_move()
    for name, fit in fits.items():
        if not failed(outcomes[name]):
            outcomes[name]["error"] = float((_move(fit) - reference).norm() / reference.norm())
    if isinstance(theirs := fits.get("theirs"), TheirFit):
        outcomes["attempts"] = theirs.attempts
    return outcomes


def reference_move() -> Tensor:
    """Return the step `-(JᵀJ / N + δ)⁻¹ Jᵀr / N` in float64, by a dense solver."""
    model = _model().double()
    inputs, targets = (values.double() for values in _batch("cpu"))
    residuals = model(inputs) - targets
    rows = [torch.autograd.grad(residual, list(model.parameters()), retain_graph=True) for residual in residuals]
    jacobian = torch.stack([torch.cat([gradient.flatten() for gradient in row]) for row in rows])
    matrix = jacobian.T @ jacobian / _SAMPLES + _THEIR_DAMPING * torch.eye(jacobian.shape[1], dtype=jacobian.dtype)
    gradient = (jacobian.T @ residuals.detach()).squeeze(1) / _SAMPLES
    solution: Tensor = torch.linalg.solve(matrix, gradient)
    return -solution


def _move(fit: OurFit | TheirFit) -> Tensor:
    fit.restore()
    before = _flat(fit.model)
    fit.step()
    return _flat(fit.model) - before


def _flat(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten().double() for parameter in model.parameters()])


def _model() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        return nn.Sequential(nn.Linear(1, 20), nn.Tanh(), nn.Linear(20, 1))


def _batch(device: str) -> tuple[Tensor, Tensor]:
    points = torch.linspace(-1, 1, _POINTS)[:, None]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        inputs = points[torch.randperm(_POINTS)[:_SAMPLES]]
    return inputs.to(device), torch.sinc(10 * inputs).to(device)

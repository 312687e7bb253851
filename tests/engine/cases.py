"""Models, losses and groupings that the engine is compared with its autograd twin on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, wraps
from typing import Any

import torch
from backpack import backpack, extend
from backpack.custom_module.branching import Parallel
from torch import Tensor, nn

from ddn_core import DirectionalDampedNewtonComputation
from ddn_core.testing import DenseTwin, per_sample_ggns, per_sample_gradients

N = 4


def cached(function):
    """Cache a function that seeds torch's generator; a caller finds the generator as it was, cached or not."""

    @cache
    @wraps(function)
    def apart(*arguments):
        with torch.random.fork_rng(devices=[]):
            return function(*arguments)

    return apart


@dataclass(frozen=True)
class Case:
    """A model with data; `outputs` is the shape of the model output for one sample."""

    model: Callable[[], nn.Module]
    inputs: Callable[[], Tensor]


class PlainContainer(nn.Module):
    """A user's own class around supported layers: no operation of its own, so nothing has to be converted."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 4), nn.ReLU())
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class TiedLinear(nn.Module):
    """Two layers that share a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.second = nn.Linear(3, 3), nn.Sigmoid(), nn.Linear(3, 3)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.middle(self.first(x)))


def _eval(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 1.5)
            nn.init.normal_(module.weight)
    return model.eval()


CASES: dict[str, Case] = {
    "mlp-relu": Case(
        lambda: nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)),
        lambda: torch.rand(N, 5),
    ),
    "mlp-sigmoid": Case(
        lambda: nn.Sequential(nn.Linear(5, 6, bias=False), nn.Sigmoid(), nn.Linear(6, 3)), lambda: torch.rand(N, 5)
    ),
    "mlp-other-activations": Case(
        lambda: nn.Sequential(
            nn.Linear(4, 4),
            nn.Tanh(),
            nn.Linear(4, 4),
            nn.ELU(),
            nn.Linear(4, 4),
            nn.SELU(),
            nn.Linear(4, 4),
            nn.LeakyReLU(),
            nn.Linear(4, 4),
            nn.LogSigmoid(),
            nn.Linear(4, 3),
            nn.Identity(),
        ),
        lambda: torch.rand(N, 4),
    ),
    "mlp-hard-activations": Case(
        lambda: nn.Sequential(
            nn.Linear(4, 5), nn.Hardswish(), nn.Linear(5, 4), nn.Hardtanh(-0.5, 0.5), nn.Linear(4, 4), nn.Hardsigmoid()
        ),
        lambda: torch.rand(N, 4),
    ),
    "mlp-soft-activations": Case(
        lambda: nn.Sequential(
            nn.Linear(4, 5), nn.CELU(0.5), nn.Linear(5, 4), nn.ReLU6(), nn.Linear(4, 3), nn.Softsign()
        ),
        lambda: torch.rand(N, 4),
    ),
    "linear-1-extra": Case(
        lambda: nn.Sequential(nn.Linear(3, 4), nn.Sigmoid(), nn.Linear(4, 2), nn.Flatten()), lambda: torch.rand(N, 2, 3)
    ),
    "linear-2-extra": Case(
        lambda: nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 2), nn.Flatten(), nn.Linear(12, 3)),
        lambda: torch.rand(N, 2, 3, 3),
    ),
    "linear-3-extra": Case(
        lambda: nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3)),
        lambda: torch.rand(N, 2, 2, 2, 2),
    ),
    "conv1d": Case(
        lambda: nn.Sequential(nn.Conv1d(2, 3, 2, stride=2), nn.ReLU(), nn.AvgPool1d(2), nn.Flatten(), nn.Linear(6, 3)),
        lambda: torch.rand(N, 2, 8),
    ),
    "conv2d": Case(
        lambda: nn.Sequential(
            nn.ZeroPad2d(1),
            nn.Conv2d(2, 4, 3, padding=1, groups=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 2, 2, dilation=2),
            nn.Sigmoid(),
            nn.Flatten(),
            nn.Linear(2, 3),
        ),
        lambda: torch.rand(N, 2, 4, 4),
    ),
    "conv3d": Case(
        lambda: nn.Sequential(nn.Conv3d(1, 2, 2), nn.Tanh(), nn.MaxPool3d(2), nn.Flatten(), nn.Linear(2, 3)),
        lambda: torch.rand(N, 1, 3, 3, 3),
    ),
    "transposed": Case(
        lambda: nn.Sequential(
            nn.ConvTranspose2d(2, 2, 2, stride=2), nn.ReLU(), nn.Conv2d(2, 1, 2), nn.Flatten(), nn.Linear(9, 3)
        ),
        lambda: torch.rand(N, 2, 2, 2),
    ),
    "transposed-1d": Case(
        lambda: nn.Sequential(nn.ConvTranspose1d(2, 2, 2), nn.Sigmoid(), nn.Flatten(), nn.Linear(8, 3)),
        lambda: torch.rand(N, 2, 3),
    ),
    "transposed-3d": Case(
        lambda: nn.Sequential(nn.ConvTranspose3d(1, 1, 2), nn.Sigmoid(), nn.Flatten(), nn.Linear(27, 3)),
        lambda: torch.rand(N, 1, 2, 2, 2),
    ),
    "pooling": Case(
        lambda: nn.Sequential(
            nn.Conv2d(1, 2, 2), nn.AvgPool2d(2), nn.Tanh(), nn.AdaptiveAvgPool2d((1, 2)), nn.Flatten(), nn.Linear(4, 3)
        ),
        lambda: torch.rand(N, 1, 5, 5),
    ),
    "transposed-all-settings": Case(
        lambda: nn.Sequential(
            nn.ConvTranspose2d(
                2, 4, (3, 2), stride=(2, 3), padding=(1, 0), output_padding=1, dilation=(1, 2), groups=2
            ),
            nn.Softplus(),
            nn.Flatten(),
            nn.Linear(168, 3),
        ),
        lambda: torch.rand(N, 2, 3, 2),
    ),
    "conv-all-settings": Case(
        lambda: nn.Sequential(
            nn.Conv1d(4, 6, 3, stride=2, padding=2, dilation=2, groups=2, bias=False),
            nn.GELU(),
            nn.Conv1d(6, 6, 2, groups=6),
            nn.SiLU(),
            nn.MaxPool1d(2, stride=1, padding=1),
            nn.Flatten(),
            nn.Linear(18, 3),
        ),
        lambda: torch.rand(N, 4, 5),
    ),
    "short-sequence": Case(
        lambda: nn.Sequential(nn.Linear(9, 8), nn.Mish(), nn.Linear(8, 7), nn.Flatten(), nn.Linear(14, 3)),
        lambda: torch.rand(N, 2, 9),
    ),
    "batch-norm-1d": Case(
        lambda: _eval(nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))),
        lambda: torch.rand(N, 4),
    ),
    "batch-norm-2d": Case(
        lambda: _eval(
            nn.Sequential(nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.Sigmoid(), nn.Flatten(), nn.Linear(8, 3))
        ),
        lambda: torch.rand(N, 1, 3, 3),
    ),
    "branched": Case(
        lambda: nn.Sequential(
            nn.Linear(4, 4),
            Parallel(nn.Identity(), nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Linear(4, 4)),
            nn.Linear(4, 3),
        ),
        lambda: torch.rand(N, 4),
    ),
    "branches-that-are-one-tensor": Case(
        lambda: nn.Sequential(nn.Linear(4, 4), Parallel(nn.Identity(), nn.Identity()), nn.Tanh(), nn.Linear(4, 3)),
        lambda: torch.rand(N, 4),
    ),
    "embedding": Case(
        lambda: nn.Sequential(nn.Embedding(6, 3), nn.Flatten(), nn.Tanh(), nn.Linear(6, 3)),
        lambda: torch.randint(0, 6, (N, 2)),
    ),
    "outputs-with-axes": Case(lambda: nn.Sequential(nn.Conv1d(2, 3, 2)), lambda: torch.rand(N, 2, 3)),
    "own-container": Case(PlainContainer, lambda: torch.rand(N, 5)),
    "tied": Case(TiedLinear, lambda: torch.rand(N, 3)),
}

LOSSES: dict[str, tuple[Callable[[str], nn.Module], Callable[[Tensor], Tensor]]] = {
    "mse": (lambda reduction: nn.MSELoss(reduction=reduction), torch.rand_like),
    "cross-entropy": (
        lambda reduction: nn.CrossEntropyLoss(reduction=reduction),
        lambda output: torch.randint(0, output.shape[1], (output.shape[0], *output.shape[2:])),
    ),
    "bce": (
        lambda reduction: nn.BCEWithLogitsLoss(reduction=reduction),
        lambda output: torch.randint(0, 2, output.shape).to(output.dtype),
    ),
}

GROUPINGS: dict[str, Callable[[nn.Module], list[list[str]]]] = {
    "one": lambda model: [[name for name, _ in model.named_parameters()]],
    "weights-and-biases": lambda model: [
        names
        for names in (
            [name for name, _ in model.named_parameters() if "weight" in name],
            [name for name, _ in model.named_parameters() if "bias" in name],
        )
        if names
    ],
    "per-parameter": lambda model: [[name] for name, _ in model.named_parameters()],
    "per-layer": lambda model: [
        [f"{prefix}.{name}" for name, _ in layer.named_parameters(recurse=False)]
        for prefix, layer in model.named_modules()
        if next(layer.named_parameters(recurse=False), None) is not None and "second" not in prefix
    ],
}


@dataclass(frozen=True)
class Problem:
    """A model with data, and the per-sample derivatives of all its parameters from autograd."""

    model: nn.Module
    loss_function: nn.Module
    inputs: Tensor
    targets: Tensor
    gradients: Tensor
    ggns: Tensor

    def block(self, names: list[str]) -> Tensor:
        """Return the places of some parameters among all, `[P]`."""
        places, start = {}, 0
        for name, parameter in self.model.named_parameters():
            places[name] = torch.arange(start, start + parameter.numel())
            start += parameter.numel()
        return torch.cat([places[name] for name in names])

    def twin(
        self, names: list[str], subsampling_grad: list[int] | None = None, subsampling_ggn: list[int] | None = None
    ) -> DenseTwin:
        """Return the twin of a group."""
        block = self.block(names)
        gradients, ggns = self.gradients[:, block], self.ggns[:, block[:, None], block]
        gradients = gradients if subsampling_grad is None else gradients[subsampling_grad]
        ggns = ggns if subsampling_ggn is None else ggns[subsampling_ggn]
        return DenseTwin.of(gradients, ggns, self.loss_function.reduction)


@cached
def make_problem(case: str, loss: str, reduction: str, seed: int = 0) -> Problem:
    """Return a seeded problem in float64."""
    torch.manual_seed(seed)
    model = CASES[case].model().double()
    inputs = CASES[case].inputs()
    inputs = inputs.double() if inputs.is_floating_point() else inputs
    make_loss, make_targets = LOSSES[loss]
    loss_function, targets = make_loss(reduction), make_targets(model(inputs).detach())
    gradients = per_sample_gradients(model, loss_function, inputs, targets)
    return Problem(
        model, loss_function, inputs, targets, gradients, per_sample_ggns(model, loss_function, inputs, targets)
    )


def run(
    problem: Problem, groups: list[dict[str, Any]], scale: float = 1.0, **settings: Any
) -> DirectionalDampedNewtonComputation:
    """Extend, run forward and backward, and return the computation."""
    computation = DirectionalDampedNewtonComputation(**settings)
    model, loss_function = extend(problem.model), extend(problem.loss_function)
    loss = scale * loss_function(model(problem.inputs), problem.targets)
    with backpack(*computation.get_extensions(), extension_hook=computation.get_extension_hook(groups)):
        loss.backward()
    return computation


def group_of(problem: Problem, names: list[str], criterion: Any, damping: Any) -> dict[str, Any]:
    """Return a group of named parameters."""
    parameters = dict(problem.model.named_parameters())
    return {"params": [parameters[name] for name in names], "criterion": criterion, "damping": damping}

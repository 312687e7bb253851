"""Square roots of the loss Hessian, at which the backpropagation of V begins.

For sample n with model output f_n, the Hessian of the loss with respect to f_n is `H_n = S_n S_nᵀ`. The exact root S_n
has a column for each output. A Monte-Carlo root has a column for each target that is drawn from the likelihood of the
loss: the gradient of the loss at this target. The expectation of its `S_n S_nᵀ` is H_n (Dangel et al. 2022, section 2;
Kunstner et al. 2019 for the equality of Fisher and GGN):

| loss | H_n | a sampled column |
| --- | --- | --- |
| mean squared error | 2 I | √2 ξ, ξ standard normal |
| cross-entropy, p = softmax(f) | diag(p) - p pᵀ | p - onehot(y), y drawn from p |
| binary cross-entropy, p = sigmoid(f) | diag(p (1 - p)) | p - y, y drawn from p |

The gradient of each of these losses lies in the span of the exact root, `∇_n = S_n c_n`. So gradients along directions
follow from c without a division (e_y is the one-hot target, or the target's class probabilities):

| loss | S | c |
| --- | --- | --- |
| mean squared error | √2 I | √2 (f - y) |
| cross-entropy, τ = √p | diag(τ) (I - τ τᵀ), a column τ_v (e_v - p) for each class v | τ - e_y / τ |
| binary cross-entropy | diag(√(p (1 - p))) | (p - y) / √(p (1 - p)) |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Generator, Tensor
from torch.nn import BCEWithLogitsLoss, CrossEntropyLoss, Module, MSELoss
from torch.nn.functional import one_hot

from ddn_core.errors import CurvatureError, NonFiniteError


@dataclass(frozen=True, eq=False)
class LossCall:
    """The call of a loss module in the forward pass.

    Attributes:
        module: The loss module.
        reduction: Reduction of the loss over the samples.
        output: Model output, `[N, *output]`.
        target: Target.
        value: Value of the loss, a scalar.
    """

    module: Module
    reduction: Literal["mean", "sum"]
    output: Tensor
    target: Tensor
    value: Tensor

    @classmethod
    def of(cls, module: Any) -> LossCall:
        """Return the call that BackPACK kept on the module.

        Raises:
            CurvatureError: The module's reduction is neither mean nor sum.
        """
        if module.reduction not in ("mean", "sum"):
            raise CurvatureError(
                f"{type(module).__name__} has reduction={module.reduction!r}. Use reduction='mean' or 'sum'."
            )
        return cls(module, module.reduction, module.input0.detach(), module.input1.detach(), module.output.detach())

    def cast(self, dtype: torch.dtype) -> LossCall:
        """Return the call with the output in the given dtype, and the target too if it is floating-point."""
        target = self.target.to(dtype) if self.target.is_floating_point() else self.target
        return replace(self, output=self.output.to(dtype), target=target)

    @property
    def name(self) -> str:
        """Name of the loss in messages."""
        return type(self.module).__name__

    @property
    def samples(self) -> int:
        """Number of samples N in the batch."""
        return self.output.shape[0]


@dataclass(frozen=True)
class LossFamily:
    """A kind of loss: the roots of its Hessian, and its gradient in the span of the exact root.

    Attributes:
        check: Raises a `CurvatureError` if the loss is configured or called in an unsupported way.
        normalizer: Returns the divisor of the mean-reduced loss, for a model output.
        exact: Returns the exact root `[C, N, *output]` for a model output `[N, *output]`.
        sampled: Returns a Monte-Carlo root `[M, N, *output]`, not divided by √M.
        coefficients: Returns the coefficients of the gradient in the exact root, `[N, C]`; not finite if a probability
            underflows.
    """

    check: Callable[[LossCall], None]
    normalizer: Callable[[Tensor], int]
    exact: Callable[[Tensor], Tensor]
    sampled: Callable[[Tensor, int, Generator | None], Tensor]
    coefficients: Callable[[LossCall], Tensor]


def loss_root(
    loss: LossCall, subsampling: Sequence[int] | None, mc_samples: int, generator: Generator | None
) -> Tensor:
    """Return the square root of the Hessian of the unnormalized loss, for the chosen samples.

    Args:
        loss: Call of the loss module.
        subsampling: Indices of the samples; `None` for all.
        mc_samples: Number of Monte-Carlo samples; 0 for the exact root.
        generator: Random generator; `None` for torch's own.

    Returns:
        Tensor `[N, C, *output]` or `[N, M, *output]`.
    """
    family = LOSSES[type(loss.module)]
    chosen = loss.output if subsampling is None else loss.output[list(subsampling)]
    root = family.sampled(chosen, mc_samples, generator) / mc_samples**0.5 if mc_samples else family.exact(chosen)
    return root.transpose(0, 1)


def normalizer(loss: LossCall) -> int:
    """Return the number by which the loss divides its sum over samples and outputs."""
    return LOSSES[type(loss.module)].normalizer(loss.output) if loss.reduction == "mean" else 1


def gradient_coefficients(loss: LossCall) -> Tensor:
    """Return the coefficients of the gradient of the unnormalized loss in the exact root, `[N, C]`."""
    return LOSSES[type(loss.module)].coefficients(loss)


def check_loss(loss: LossCall) -> None:
    """Check that a loss is supported as it was configured and called.

    Raises:
        CurvatureError: The loss is of an unsupported kind, has an unsupported setting, or got unsupported arguments.
        NonFiniteError: The value of the loss is not finite.
    """
    if type(loss.module) not in LOSSES:
        supported = ", ".join(kind.__name__ for kind in LOSSES)
        raise CurvatureError(f"loss function {loss.name} is not supported. Use one of {supported}.")
    output = loss.output
    if output.dim() < 2:
        raise CurvatureError(
            f"{loss.name} was given a model output of shape {list(output.shape)}. It needs a batch axis and an output "
            "axis: reshape the output to [N, C] or [N, C, ...]."
        )
    if loss.samples == 0:
        raise CurvatureError(f"{loss.name} was given an empty batch (batch size 0). Skip empty batches.")
    LOSSES[type(loss.module)].check(loss)
    if not bool(torch.isfinite(loss.value).all()):
        raise NonFiniteError(
            f"the loss is {float(loss.value)}: {loss.name} of model outputs from "
            f"{float(output.min()):g} to {float(output.max()):g}. Look for diverged parameters, or NaN in the data."
        )


def _diagonal_root(diagonal: Tensor) -> Tensor:
    """Return the root `[C, N, *output]` of diagonal Hessians with the diagonals `[N, *output]`."""
    roots = torch.diag_embed(diagonal.flatten(1).sqrt())  # [N, C, C]
    return roots.transpose(0, 1).reshape(-1, *diagonal.shape)


def _check_same_shape(loss: LossCall) -> None:
    if loss.output.shape != loss.target.shape:
        raise CurvatureError(
            f"{loss.name} was given a model output of shape {list(loss.output.shape)} and a target of shape "
            f"{list(loss.target.shape)}. Reshape the target to the shape of the output: broadcasting is not supported."
        )


def _check_unset(loss: LossCall, *names: str) -> None:
    for name in names:
        if getattr(loss.module, name) is not None:
            raise CurvatureError(
                f"{loss.name} has {name} set, which is not supported: its curvature would be wrong. Leave {name} unset."
            )


def _check_bce(loss: LossCall) -> None:
    _check_unset(loss, "weight", "pos_weight")
    _check_same_shape(loss)


def _check_cross_entropy(loss: LossCall) -> None:
    _check_unset(loss, "weight")
    target = loss.target
    ignored: Any = loss.module.ignore_index
    if target.is_floating_point():
        if not torch.allclose(mass := target.sum(1), torch.ones_like(mass), atol=1e-4):
            raise CurvatureError("CrossEntropyLoss was given class probabilities that do not sum to 1. Normalize them.")
    elif bool(target.eq(ignored).any()):
        raise CurvatureError(
            f"CrossEntropyLoss was given targets equal to ignore_index={ignored}, which is not supported: its "
            "curvature would be wrong. Leave samples with such targets out of the batch."
        )


def _cross_entropy_exact(output: Tensor) -> Tensor:
    """Return `diag(τ) (I - τ τᵀ)` with τ = √p, for each position l of the axes after the class axis."""
    tau = torch.softmax(output, dim=1).sqrt().reshape(*output.shape[:2], -1).transpose(1, 2)  # [N, L, C]
    root = torch.diag_embed(tau) - tau[..., :, None] * tau.square()[..., None, :]  # [N, L, v, c]: τ_c (δ_vc - τ_v τ_c)
    columns = torch.diag_embed(root.permute(2, 0, 3, 1))  # [v, N, c, L, L']: positions do not mix
    return columns.movedim(-1, 1).reshape(-1, *output.shape)


def _cross_entropy_sampled(output: Tensor, mc_samples: int, generator: Generator | None) -> Tensor:
    probabilities = torch.softmax(output, dim=1).movedim(1, -1)  # [N, ..., C]
    classes = probabilities.shape[-1]
    drawn = torch.multinomial(probabilities.reshape(-1, classes), mc_samples, replacement=True, generator=generator)
    targets = one_hot(drawn.T, classes).to(output.dtype).reshape(mc_samples, *probabilities.shape)
    return (probabilities - targets).movedim(-1, 2)


def _bce_sampled(output: Tensor, mc_samples: int, generator: Generator | None) -> Tensor:
    probabilities = torch.sigmoid(output).expand(mc_samples, *output.shape)
    return probabilities - torch.bernoulli(probabilities, generator=generator)


def _mse_sampled(output: Tensor, mc_samples: int, generator: Generator | None) -> Tensor:
    shape = (mc_samples, *output.shape)
    return 2**0.5 * torch.randn(shape, dtype=output.dtype, device=output.device, generator=generator)


def _cross_entropy_coefficients(loss: LossCall) -> Tensor:
    tau, target = torch.softmax(loss.output, dim=1).sqrt(), loss.target
    if not target.is_floating_point():
        target = one_hot(target, loss.output.shape[1]).movedim(-1, 1).to(tau.dtype)
    smoothing: Any = loss.module.label_smoothing
    smooth: Tensor = (1 - smoothing) * target + smoothing / loss.output.shape[1]
    return (tau - smooth / tau).flatten(1)


def _bce_coefficients(loss: LossCall) -> Tensor:
    probabilities = torch.sigmoid(loss.output)
    return ((probabilities - loss.target) / (probabilities * torch.sigmoid(-loss.output)).sqrt()).flatten(1)


LOSSES: dict[type[Module], LossFamily] = {
    MSELoss: LossFamily(
        check=_check_same_shape,
        normalizer=lambda output: output.numel(),
        exact=lambda output: _diagonal_root(torch.full_like(output, 2.0)),
        sampled=_mse_sampled,
        coefficients=lambda loss: (2**0.5 * (loss.output - loss.target)).flatten(1),
    ),
    CrossEntropyLoss: LossFamily(
        check=_check_cross_entropy,
        normalizer=lambda output: output.numel() // output.shape[1],
        exact=_cross_entropy_exact,
        sampled=_cross_entropy_sampled,
        coefficients=_cross_entropy_coefficients,
    ),
    BCEWithLogitsLoss: LossFamily(
        check=_check_bce,
        normalizer=lambda output: output.numel(),
        exact=lambda output: _diagonal_root(torch.sigmoid(output) * torch.sigmoid(-output)),
        sampled=_bce_sampled,
        coefficients=_bce_coefficients,
    ),
}
"""The supported losses, each with its roots."""

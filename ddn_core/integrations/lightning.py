"""PyTorch Lightning: a mixin for accumulated micro-batches, and for steps that need the loss after the step.

If neither is needed, automatic optimization works without the mixin: `configure_optimizers` returns the optimizer,
Lightning calls `optimizer.step(closure)`, and the closure is called in a curvature block.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from ddn_core.errors import ArgumentError
from ddn_core.optim import DirectionalDampedNewton, Draws


class CurvatureModule:
    """Mixin for a `LightningModule` whose optimizer is `DirectionalDampedNewton`; put it before `LightningModule`.

    Each backward pass has its own curvature block. With `accumulate_grad_batches=n`, the step uses the n micro-batches
    together. If a strategy or a step rule uses the loss after the step, `training_step` is called again, without a
    backward pass. This works only for n = 1, because the call would return the loss of the last micro-batch alone; with
    n > 1 a strategy or rule that requires the loss is an error, and one that uses it if it can does without. The same
    holds for the precision `16-mixed`, whose scaled losses need the mixin.

    `gradient_clip_val` clips gradients before the step, which uses them in groups with `gradient = "grad"`.

    Example:
        >>> class Classifier(CurvatureModule, LightningModule): ...
    """

    _evaluates = False

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Make the backward pass in a curvature block, or no pass if only the loss is needed."""
        if self._evaluates:
            return
        with self._newton().curvature(accumulate=True):
            loss.backward(*args, **kwargs)  # type: ignore[no-untyped-call]

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        """Make the backward pass of the last micro-batch, and then the step.

        Raises:
            ArgumentError: The loss after the step is needed, and micro-batches are accumulated.
        """
        accumulated = self.trainer.accumulate_grad_batches  # type: ignore[attr-defined]

        def loss_after() -> Any:
            if accumulated > 1:
                raise ArgumentError(
                    f"accumulate_grad_batches is {accumulated}, and a strategy or a step rule needs the loss after the "
                    "step, which cannot be compared for a single micro-batch. Set accumulate_grad_batches to 1, or use "
                    "strategies and rules that do not need that loss."
                )
            assert optimizer_closure is not None
            with draws.repeated():
                return optimizer_closure()

        draws = Draws.now([self.device])  # type: ignore[attr-defined]
        if optimizer_closure is not None:
            optimizer_closure()
        if getattr(self.trainer.precision_plugin, "scaler", None) is not None:  # type: ignore[attr-defined]
            # Lightning calls a closure before a scaled step, which cannot evaluate the loss after it, clips gradients,
            # and makes no step if the closure returns `None`.
            optimizer.step(lambda: True)
            return
        self._clip()
        self._evaluates = True
        try:
            has_loss = accumulated == 1 or self._newton().requires_closure
            optimizer.step(loss_after if has_loss else None)
        finally:
            self._evaluates = False

    def _clip(self) -> None:
        """Clip gradients if the trainer does: before the step, while Lightning would after it, with the closure."""
        self.configure_gradient_clipping(  # type: ignore[attr-defined]
            self._newton(),
            gradient_clip_val=self.trainer.gradient_clip_val,  # type: ignore[attr-defined]
            gradient_clip_algorithm=self.trainer.gradient_clip_algorithm,  # type: ignore[attr-defined]
        )

    def _newton(self) -> DirectionalDampedNewton:
        """Return the optimizer.

        Raises:
            ArgumentError: The module has another optimizer, or several.
        """
        given = self.optimizers(use_pl_optimizer=False)  # type: ignore[attr-defined]
        if not isinstance(given, DirectionalDampedNewton):
            kind = type(given).__name__ if isinstance(given, Optimizer) else "more than one optimizer"
            raise ArgumentError(
                f"CurvatureModule needs exactly one optimizer, a DirectionalDampedNewton, and the module has {kind}."
            )
        return given

"""A BackPACK extension that gives factors: BackPACK backpropagates, nothing is stored on parameters.

A backward pass through extended modules calls the extension once for each module, the loss first::

    loss module      check the loss, begin a pass, propagate the root of its Hessian to the model output
    each layer       make a factor for each wanted parameter, propagate the root to the layer's input
    end of the pass  check that nothing was missed, hand the `Capture` over

What goes wrong at the loss is raised at once, before any gradient is written. What goes wrong at a layer is raised at
the end of the pass, so that every `.grad` is whole, as after any other backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from backpack.core.derivatives.basederivatives import BaseDerivatives
from backpack.extensions.mat_to_mat_jac_base import MatToJacMat
from backpack.extensions.module_extension import ModuleExtension
from backpack.extensions.saved_quantities import SavedQuantities
from backpack.extensions.secondorder.base import SecondOrderBackpropExtension
from backpack.utils.module_classification import is_loss
from torch import Generator, Tensor
from torch.nn import Module, Parameter

from ddn_core.engine.capture.backward_pass import (
    BackwardPass,
    check_kept,
    check_only_loss,
    gradient_state,
    heed_hook_notice,
    ignore_hook_notice,
    layout,
    running_task,
)
from ddn_core.engine.capture.completeness import check_complete
from ddn_core.engine.capture.layers import check_layer, layer_columns, layer_derivatives, unsupported_layer
from ddn_core.engine.capture.loss import LOSSES, LossCall, check_loss, loss_root
from ddn_core.engine.capture.result import Capture
from ddn_core.engine.capture.subsampling import check_in_batch, checked_subsampling
from ddn_core.engine.factors import Factor
from ddn_core.errors import ArgumentError, CurvatureError, DdnError


class CurvatureCapture(SecondOrderBackpropExtension):  # type: ignore[misc]  # BackPACK has no types
    """BackPACK extension that hands a `Capture` over at the end of each backward pass.

    Sub-sampling and Monte-Carlo sampling are the extension's; which parameters are wanted may change between passes.
    """

    def __init__(
        self,
        wanted: Callable[[], Mapping[int, tuple[str, Parameter]]],
        begin: Callable[[], None],
        deliver: Callable[[Capture], None],
        subsampling_grad: Sequence[int] | None = None,
        subsampling_ggn: Sequence[int] | None = None,
        mc_samples: int = 0,
        generator: Callable[[torch.device], Generator | None] = lambda device: None,
    ) -> None:
        """Set up the extension; nothing happens before a backward pass.

        Args:
            wanted: Gives name and parameter by `id` of the parameter, for those that factors are wanted of.
            begin: Is told of each pass before anything else: results of the last one are stale.
            deliver: Receives the capture at the end of each pass that succeeds.
            subsampling_grad: Indices of the samples in the gradient; all by default.
            subsampling_ggn: Indices of the samples in the GGN; all by default.
            mc_samples: Number of Monte-Carlo samples; 0 for the exact GGN.
            generator: Gives the source of random numbers for Monte-Carlo samples on a device.

        Raises:
            ArgumentError: An index is negative, repeated or no integer, a list is empty, or mc_samples is negative.
        """
        self._subsampling_grad = checked_subsampling("subsampling_grad", subsampling_grad)
        self._subsampling_ggn = checked_subsampling("subsampling_ggn", subsampling_ggn)
        if isinstance(mc_samples, bool) or not isinstance(mc_samples, int) or mc_samples < 0:
            raise ArgumentError(
                f"the number of Monte-Carlo samples is {mc_samples!r}. Use 0 for the exact GGN, or 1, 2, ..."
            )
        self._derivatives: dict[type[Module], BaseDerivatives] = layer_derivatives()
        extensions: dict[type[Module], ModuleExtension] = {
            layer: MatToJacMat(derivatives) for layer, derivatives in self._derivatives.items()
        }
        extensions.update({loss: _LossRoot(self) for loss in LOSSES})
        super().__init__(savefield="ddn", module_exts=extensions, subsampling=self._subsampling_ggn)
        self._wanted = wanted
        self._begin = begin
        self._deliver = deliver
        self._mc_samples = mc_samples
        self._generator = generator
        self._pass: BackwardPass | None = None
        self._refused_task: int | None = None

    def __call__(self, module: Module, g_inp: tuple[Tensor, ...], g_out: tuple[Tensor, ...]) -> None:
        """Handle one module of the backward pass; called by BackPACK's hook."""
        with torch.no_grad():
            if is_loss(module):
                self._enter(module, g_out[0])
            current = self._running()
            if current is None:
                self._refuse(module)
                return
            if current.error is None:
                try:
                    self._visit(current, module, g_inp, g_out)
                except DdnError as error:
                    current.error = error
                except Exception as error:  # BackPACK's own, for a layer setting that it cannot handle
                    current.error = CurvatureError(f"layer {module}: {error}")
                    current.error.__cause__ = error

    def accumulate_backpropagated_quantities(self, existing: Tensor, other: Tensor) -> Tensor:
        """Add up what reaches a tensor that several modules take."""
        return existing + other

    def loss_root(self) -> Tensor:
        """Return the root of the loss Hessian, scaled so that `G = V Vᵀ` for the samples of the GGN."""
        current = self._running()
        assert current is not None
        loss = current.loss
        root: Tensor = loss_root(loss, self._subsampling_ggn, self._mc_samples, self._generator(loss.output.device))
        current.columns_per_sample, samples = root.shape[:2]
        share = loss.samples / samples if loss.reduction == "mean" else 1.0
        return root.mul(float(current.scale * share) ** 0.5)

    def _refuse(self, module: Module) -> None:
        """See to it that a pass without a loss module raises at its end."""
        if self._refused_task == running_task():
            return
        self._refused_task = running_task()
        self._begin()
        error = CurvatureError(
            f"the backward pass reached layer {type(module).__name__} before any loss module. Extend the loss function "
            "too, loss_function = backpack.extend(loss_function), and call backward on its result."
        )

        def refuse() -> None:
            heed_hook_notice()
            raise error

        ignore_hook_notice()
        torch.autograd.Variable._execution_engine.queue_callback(refuse)

    def _running(self) -> BackwardPass | None:
        """Return the pass that this call belongs to, if its loss was seen."""
        return self._pass if self._pass is not None and self._pass.task == running_task() else None

    def _enter(self, module: Module, grad_output: Tensor) -> None:
        """Begin a pass at its loss; raises before any gradient is written."""
        if (running := self._running()) is not None:
            running.error = CurvatureError(
                "one backward pass went through two loss modules. Call backward on one loss at a time, each in a "
                "`with` block of its own."
            )
            return
        self._begin()
        check_kept(module)
        loss = LossCall.of(module)
        check_loss(loss)
        check_in_batch("subsampling_grad", self._subsampling_grad, loss.samples)
        check_in_batch("subsampling_ggn", self._subsampling_ggn, loss.samples)
        scale = float(grad_output)
        if not 0 <= scale < float("inf"):
            raise CurvatureError(
                f"the loss was multiplied by {scale:g} before backward. Only a finite constant that is not negative "
                "leaves the GGN positive semi-definite."
            )
        wanted = dict(self._wanted())
        self.saved_quantities = SavedQuantities()
        self._pass = BackwardPass(
            task=running_task(),
            loss=loss,
            scale=scale,
            wanted=wanted,
            gradients_before={key: gradient_state(parameter) for key, (_, parameter) in wanted.items()},
        )
        ignore_hook_notice()
        torch.autograd.Variable._execution_engine.queue_callback(self._end)

    def _visit(
        self, current: BackwardPass, module: Module, g_inp: tuple[Tensor, ...], g_out: tuple[Tensor, ...]
    ) -> None:
        """Make the factors of one module, and let BackPACK propagate the root to its input."""
        check_kept(module)
        if module is not current.loss.module:
            if type(module) not in self._derivatives:
                if next(module.children(), None) is None or next(module.parameters(recurse=False), None) is not None:
                    raise unsupported_layer(module)
                return  # a container: its children are visited one by one
            check_layer(module)
            root = self._root_at(current, module)
            check_only_loss(current, module, g_out[0])
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.requires_grad and id(parameter) in current.wanted:
                    factor = self._factor(current, module, name, root, g_out[0])
                    known = current.factors.get(id(parameter))
                    current.factors[id(parameter)] = factor if known is None else known + factor
        else:
            current.output_gradient = g_inp[0]
        super().__call__(module, g_inp, g_out)
        position = 0
        while (tensor := getattr(module, f"input{position}", None)) is not None:
            current.layouts[tensor.data_ptr()] = layout(tensor)
            if tensor.grad_fn is not None:
                current.unclaimed[tensor.data_ptr()] = tensor.grad_fn
            position += 1

    def _root_at(self, current: BackwardPass, module: Module) -> Tensor:
        """Return the root that was propagated to a module's output."""
        output: Any = module.output
        root: Tensor | None = self.saved_quantities.retrieve_quantity(output.data_ptr(), False)
        if root is None or current.layouts.get(output.data_ptr()) != layout(output):
            raise CurvatureError(
                f"between the output of layer {type(module).__name__} and the next extended module, or the loss, there "
                "is an operation that is no module (or the next module is not extended). Use modules for all "
                "operations, nn.ReLU() rather than torch.relu, nn.Flatten() rather than reshape, or try "
                "`backpack.extend(model, use_converter=True)`."
            )
        current.unclaimed.pop(output.data_ptr(), None)
        return root

    def _factor(self, current: BackwardPass, layer: Module, name: str, root: Tensor, g_out: Tensor) -> Factor:
        derivatives = self._derivatives[type(layer)]
        gradient = g_out.detach() if self._subsampling_grad is None else g_out.detach()[self._subsampling_grad]
        if current.loss.reduction == "mean":
            gradient = gradient * current.loss.samples
        return Factor(
            root=layer_columns(layer, name, derivatives, root, self._subsampling_ggn),
            gradient=layer_columns(layer, name, derivatives, gradient[None], self._subsampling_grad),
        )

    def _end(self) -> None:
        """End the pass: raise what went wrong, or hand the capture over. Called by autograd after all gradients."""
        current, self._pass = self._pass, None
        self.saved_quantities = SavedQuantities()
        heed_hook_notice()
        assert current is not None
        if current.error is not None:
            raise current.error
        check_complete(current, all_samples=self._subsampling_grad is None)
        loss = current.loss
        self._deliver(
            Capture(
                factors=current.factors,
                columns_per_sample=current.columns_per_sample,
                samples_ggn=loss.samples if self._subsampling_ggn is None else len(self._subsampling_ggn),
                samples_grad=loss.samples if self._subsampling_grad is None else len(self._subsampling_grad),
                reduction=loss.reduction,
                loss=current.scale * float(loss.value),
                dtype=loss.output.dtype,
                device=loss.output.device,
            )
        )


class _LossRoot(ModuleExtension):  # type: ignore[misc]  # BackPACK has no types
    """Where backpropagation begins: gives the root of the loss Hessian in place of a propagated quantity."""

    def __init__(self, capture: CurvatureCapture) -> None:
        super().__init__()
        self._capture = capture

    def backpropagate(
        self, extension: Any, module: Module, g_inp: tuple[Tensor, ...], g_out: tuple[Tensor, ...], bp_quantity: None
    ) -> Tensor:
        return self._capture.loss_root()

"""The BackPACK extension that captures factors: BackPACK keeps the layers' inputs, and nothing is stored on parameters.

A backward pass through extended modules calls the extension once for each module, the loss first::

    loss module      check the loss, begin a pass
    each layer       check the layer, record its call: inputs, output, and the gradients that reached it
    end of the pass  propagate the root of the loss Hessian back, make the factors, deliver the `Capture`

An error at the loss is raised at once, before any gradient is written. An error at a layer is raised at the end of the
pass, so that every `.grad` is complete, as after any other backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from backpack.extensions.backprop_extension import BackpropExtension
from backpack.utils.module_classification import is_loss
from torch import Generator, Tensor
from torch.nn import Module

from ddn_core.engine.capture.backward_pass import (
    BackwardPass,
    WantedParameter,
    check_inputs_kept,
    check_only_loss,
    gradient_state,
    hide_hook_notice,
    running_task,
    show_hook_notice,
)
from ddn_core.engine.capture.finish import CaptureSettings, finish_capture
from ddn_core.engine.capture.jacobians import JACOBIANS
from ddn_core.engine.capture.layers import check_layer, unsupported_layer
from ddn_core.engine.capture.loss import LossCall, check_loss
from ddn_core.engine.capture.result import Capture
from ddn_core.engine.capture.subsampling import Subsampling
from ddn_core.engine.capture.tape import LayerCall, kept_inputs, key_of
from ddn_core.errors import ArgumentError, CurvatureError, DdnError


class CurvatureCapture(BackpropExtension):  # type: ignore[misc]  # BackPACK has no types
    """BackPACK extension that delivers a `Capture` at the end of each backward pass.

    Sub-sampling and Monte-Carlo sampling are fixed for each extension. The wanted parameters may change between passes.
    """

    def __init__(
        self,
        wanted: Callable[[], Mapping[int, WantedParameter]],
        begin: Callable[[], None],
        deliver: Callable[[Capture], None],
        subsampling_grad: Sequence[int] | None = None,
        subsampling_ggn: Sequence[int] | None = None,
        subsampling_lambdas: Sequence[int] | None = None,
        mc_samples: int = 0,
        generator: Callable[[torch.device], Generator | None] = lambda device: None,
        memory_budget: int | Literal["auto"] | None = None,
    ) -> None:
        """Set up the extension; it does nothing before a backward pass.

        Args:
            wanted: Returns the parameters whose factors are captured, by `id`.
            begin: Called first in each pass, so that the caller discards results of the last pass.
            deliver: Called with the capture at the end of each successful pass.
            subsampling_grad: Indices of the samples in the gradient; all by default.
            subsampling_ggn: Indices of the samples in the GGN; all by default.
            subsampling_lambdas: Indices of the samples in the directional curvatures; those of the GGN by default.
            mc_samples: Number of Monte-Carlo samples; 0 for the exact GGN.
            generator: Returns the random generator of the Monte-Carlo samples for a device; `None` for torch's own.
            memory_budget: Number of bytes that curvature may use in addition to the gradient's memory; `"auto"` for the
                free memory, `None` for no limit.

        Raises:
            ArgumentError: An index is negative, repeated or not an integer, a list is empty, or `mc_samples` is not an
                integer from 0.
        """
        subsampling = Subsampling(subsampling_grad, subsampling_ggn, subsampling_lambdas)
        if isinstance(mc_samples, bool) or not isinstance(mc_samples, int) or mc_samples < 0:
            raise ArgumentError(
                f"the number of Monte-Carlo samples is {mc_samples!r}. Use 0 for the exact GGN, or 1, 2, ..."
            )
        super().__init__(savefield="ddn", module_exts={})
        self._settings = CaptureSettings(subsampling, mc_samples, generator, memory_budget)
        self._wanted = wanted
        self._begin = begin
        self._deliver = deliver
        self._pass: BackwardPass | None = None
        self._task_without_loss: int | None = None

    def expects_backpropagation_quantities(self) -> bool:
        """Return False: BackPACK need not propagate anything for this extension."""
        return False

    def __call__(self, module: Module, g_inp: tuple[Tensor, ...], g_out: tuple[Tensor, ...]) -> None:
        """Handle one module of the backward pass; BackPACK's hook calls this."""
        with torch.no_grad():
            if is_loss(module):
                self._enter(module, g_out[0])
            current = self._running()
            if current is None:
                self._raise_without_loss(module)
                return
            if current.error is None:
                try:
                    self._visit(current, module, g_inp, g_out)
                except DdnError as error:
                    current.error = error

    def _raise_without_loss(self, module: Module) -> None:
        """Make a pass without a loss module raise an error at its end."""
        if self._task_without_loss == running_task():
            return
        self._task_without_loss = running_task()
        self._begin()
        error = CurvatureError(
            f"the backward pass reached layer {type(module).__name__} before any loss module. Extend the loss function "
            "too, loss_function = backpack.extend(loss_function), and call backward on its result."
        )

        def refuse() -> None:
            show_hook_notice()
            raise error

        hide_hook_notice()
        torch.autograd.Variable._execution_engine.queue_callback(refuse)

    def _running(self) -> BackwardPass | None:
        """Return the pass that is running, or `None` if it has not reached a loss module."""
        return self._pass if self._pass is not None and self._pass.task == running_task() else None

    def _enter(self, module: Module, grad_output: Tensor) -> None:
        """Begin a pass at its loss module.

        Raises:
            CurvatureError: The loss is not supported, or multiplied by a negative or non-finite number. No gradient has
                been written yet.
        """
        if (running := self._running()) is not None:
            running.error = CurvatureError(
                "one backward pass went through two loss modules. Call backward on one loss at a time, each in its own "
                "`with` block."
            )
            return
        self._begin()
        check_inputs_kept(module)
        loss = LossCall.of(module)
        check_loss(loss)
        self._settings.subsampling.check_in_batch(loss.samples)
        scale = float(grad_output)
        if not 0 <= scale < float("inf"):
            raise CurvatureError(
                f"the loss was multiplied by {scale:g} before backward. The GGN is then not positive semi-definite. "
                "Multiply the loss by a finite constant that is not negative."
            )
        wanted = dict(self._wanted())
        self._pass = BackwardPass(
            task=running_task(),
            loss=loss,
            scale=scale,
            wanted=wanted,
            gradients_before={key: gradient_state(entry.parameter) for key, entry in wanted.items()},
        )
        hide_hook_notice()
        torch.autograd.Variable._execution_engine.queue_callback(self._end)

    def _visit(
        self, current: BackwardPass, module: Module, g_inp: tuple[Tensor, ...], g_out: tuple[Tensor, ...]
    ) -> None:
        """Record the call of one module."""
        check_inputs_kept(module)
        if module is current.loss.module:
            current.output_gradient = g_inp[0]
            self._expect(current, next(kept_inputs(module)))
            return
        if type(module) not in JACOBIANS:
            if next(module.children(), None) is None or next(module.parameters(recurse=False), None) is not None:
                raise unsupported_layer(module)
            return  # a container: its children are handled one by one
        check_layer(module)
        call = LayerCall.of(module, g_inp[0], g_out[0])
        if call.output_key not in current.expected:
            raise CurvatureError(
                f"between the output of layer {type(module).__name__} and the next extended module, or the loss, there "
                "is an operation that is no module (or the next module is not extended). Use a module for each "
                "operation, nn.ReLU() rather than torch.relu and nn.Flatten() rather than reshape, or try "
                "`backpack.extend(model, use_converter=True)`."
            )
        current.unclaimed.pop(call.output_key, None)
        check_only_loss(current, module, g_out[0])
        current.calls.append(call)
        current.reached.update(id(getattr(module, name)) for name in call.names_among(current.wanted))
        for tensor in kept_inputs(module):
            self._expect(current, tensor)

    def _expect(self, current: BackwardPass, tensor: Tensor) -> None:
        """Record that columns will be propagated to a tensor, so that a module must have returned it."""
        current.expected.add(key_of(tensor))
        if tensor.grad_fn is not None:
            current.unclaimed[key_of(tensor)] = tensor.grad_fn

    def _end(self) -> None:
        """End the pass: raise its error, or deliver its capture. Autograd calls this after all gradients."""
        current, self._pass = self._pass, None
        show_hook_notice()
        assert current is not None
        if current.error is not None:
            raise current.error
        with torch.no_grad(), torch.autocast(current.loss.output.device.type, enabled=False):
            self._deliver(finish_capture(current, self._settings))

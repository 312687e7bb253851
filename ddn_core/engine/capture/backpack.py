"""The front for `with backpack(...)`: a BackPACK extension that delivers the capture of a backward pass.

BackPACK calls the extension once for each extended module, the loss module first. At the loss module the columns are
computed, while the graph below it is still there; the pass that is running then brings the per-sample gradients, and at
its end the capture is delivered. Nothing is stored on modules or parameters.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

import torch
from backpack import backpack
from backpack.extensions.backprop_extension import BackpropExtension
from backpack.utils.module_classification import is_loss
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn import Module
from torch.utils.hooks import RemovableHandle

from ddn_core.engine.capture.backward_pass import CurvaturePass
from ddn_core.engine.capture.destinations import WantedParameter
from ddn_core.engine.capture.module_hooks import NOTICE
from ddn_core.engine.capture.plan import PlanStore
from ddn_core.engine.capture.result import Capture
from ddn_core.engine.capture.settings import CaptureSettings
from ddn_core.engine.nodes import kind_of
from ddn_core.errors import CurvatureError


class CurvatureCapture(BackpropExtension):  # type: ignore[misc]  # BackPACK has no types
    """BackPACK extension that delivers a `Capture` at the end of each backward pass.

    The settings are fixed for each extension. The wanted parameters may change between passes.
    """

    def __init__(
        self,
        wanted: Callable[[], Mapping[int, WantedParameter]],
        begin: Callable[[], None],
        deliver: Callable[[Capture], None],
        settings: CaptureSettings,
        plans: PlanStore,
    ) -> None:
        """Set up the extension; it does nothing before a backward pass.

        Args:
            wanted: Returns the parameters whose factors are captured, by `id`.
            begin: Called first in each pass, so that the caller discards results of the last pass.
            deliver: Called with the capture at the end of each successful pass.
            settings: Settings of the captures.
            plans: Plans of earlier passes.
        """
        super().__init__(savefield="ddn", module_exts={})
        self._wanted, self._begin, self._deliver = wanted, begin, deliver
        self._settings, self._plans = settings, plans
        self._task: int | None = None
        self._is_nested = False

    def expects_backpropagation_quantities(self) -> bool:
        """Return False: BackPACK need not propagate anything for this extension."""
        return False

    def __call__(self, module: Module, g_inp: tuple[Tensor, ...], g_out: tuple[Tensor, ...]) -> None:
        """Handle one module of the backward pass; BackPACK's hook calls this."""
        task = int(torch._C._current_graph_task_id())
        if is_loss(module):
            if self._task == task:
                raise CurvatureError(
                    "one backward pass went through two loss modules. Call backward on one loss at a time, each in its "
                    "own `with` block."
                )
            self._begin()
            self._enter(module, g_out[0])
            self._task = task
        elif self._task != task:
            self._task = task
            self._begin()
            error = CurvatureError(
                f"the backward pass reached layer {type(module).__name__} before any loss module. Extend the loss "
                "function too, loss_function = backpack.extend(loss_function), and call backward on its result."
            )
            _at_the_end(lambda: _raise(error))

    def _enter(self, module: Module, scale: Tensor) -> None:
        """Compute the columns at the loss module, and have the capture delivered at the end of the pass."""
        if not hasattr(module, "output") or not hasattr(module, "input0"):
            raise CurvatureError(
                f"input and output of module {type(module).__name__} are gone. Either it was called more than once in "
                "the forward pass: make one instance for each call. Or backward was called twice on one graph: run the "
                "forward pass again."
            )
        given, target = module.input0, module.input1
        assert isinstance(given, Tensor)
        output = given.detach().requires_grad_()
        with torch.enable_grad():
            loss = type(module).forward(module, output, target)
        own = CurvaturePass(
            loss,
            self._wanted(),
            self._settings,
            self._plans,
            scale.detach(),
            output=_edge_below_hooks(given),
            nested=lambda: backpack(retain_graph=True),  # in these passes BackPACK's hooks do nothing
        )
        own.begin()
        handles = own.attach()
        _at_the_end(lambda: self._end(own, handles))

    def _end(self, own: CurvaturePass, handles: list[RemovableHandle]) -> None:
        """Deliver the capture at the end of the pass."""
        for handle in handles:
            handle.remove()
        self._task = None
        with torch.no_grad(), torch.autocast(own.device.type, enabled=False):
            self._deliver(own.finish())


def _edge_below_hooks(tensor: Tensor) -> GradientEdge:
    """Return the edge of a module's input below the nodes that torch inserted for the module's hooks."""
    edge = get_gradient_edge(tensor)
    while kind_of(edge.node) == "BackwardHookFunction":
        below, number = edge.node.next_functions[edge.output_nr]
        assert below is not None
        edge = GradientEdge(below, number)
    return edge


def _at_the_end(act: Callable[[], None]) -> None:
    """Call a function at the end of the backward pass that is running, and hide torch's hook notice until then."""
    warnings.filterwarnings("ignore", message=NOTICE)

    def end() -> None:
        for entry in list(warnings.filters):
            if getattr(entry[1], "pattern", None) == NOTICE:
                warnings.filters.remove(entry)  # type: ignore[attr-defined]
        act()

    torch.autograd.Variable._execution_engine.queue_callback(end)


def _raise(error: CurvatureError) -> None:
    raise error

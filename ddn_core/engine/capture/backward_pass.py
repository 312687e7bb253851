"""One backward pass with curvature: the columns before it, the per-sample gradients during it, the capture after it."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property, reduce
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import GradientEdge
from torch.utils.hooks import RemovableHandle

from ddn_core.engine.capture.assembly import Assembly, AssemblySettings
from ddn_core.engine.capture.batch import find_sample_axis
from ddn_core.engine.capture.budget import CapturePlan, plan_capture
from ddn_core.engine.capture.carried import carry_root
from ddn_core.engine.capture.completeness import check_gradients, check_only_loss, check_reached
from ddn_core.engine.capture.destinations import WantedParameter, destinations_of
from ddn_core.engine.capture.graph import ModelGraph, Reach
from ddn_core.engine.capture.module_hooks import quiet_module_hooks
from ddn_core.engine.capture.output_root import OutputRoot
from ddn_core.engine.capture.plan import GraphPlan, PlanStore, make_plan, unknown_sharing
from ddn_core.engine.capture.recorded import Recording
from ddn_core.engine.capture.result import Capture
from ddn_core.engine.capture.settings import CaptureSettings
from ddn_core.engine.capture.verification import Verification
from ddn_core.engine.factors import Columns, Factor
from ddn_core.engine.losses import checked_top, magnitude_of, recognize, unit_of_root
from ddn_core.errors import CurvatureError, NonFiniteError

LEAST_WEIGHT = 2.0**-10
"""Smallest weight of a loss, in smallest normal numbers of its dtype; below it, half of the binary digits are lost."""

_logger = logging.getLogger("ddn_core")


class CurvaturePass:
    """The capture of one backward pass.

    `begin` carries the columns of V to the sites, while the graph is there. `record` surrounds the backward pass
    itself, which brings the per-sample gradients. `finish` checks the gradients and returns the capture. Where the
    column of a sample is its gradient times a number, the columns are recorded in the backward pass, too, and `begin`
    carries some only in passes that verify the plan.
    """

    def __init__(
        self,
        loss: Tensor,
        wanted: Mapping[int, WantedParameter],
        settings: CaptureSettings,
        plans: PlanStore,
        scale: float | Tensor = 1.0,
        samples: int | None = None,
        output: GradientEdge | None = None,
        nested: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        """Find loss function, model output and graph.

        Args:
            loss: Loss, a scalar with a graph.
            wanted: The wanted parameters by `id`.
            settings: Settings of the capture.
            plans: Plans of earlier passes.
            scale: Constant by which the loss is multiplied in the backward pass.
            samples: Number of samples in the batch; found in the graph by default.
            output: Edge of the model output, if the graph of the loss begins at a copy of the output. It is found in
                the graph by default.
            nested: Returns a context for each backward pass that carries columns.

        Raises:
            CurvatureError: The loss is not supported, or no wanted parameter takes part in it.
        """
        self._begun = time.perf_counter()
        self._loss, self._scale = loss, scale
        is_apart = output is not None
        self._wanted, self._settings, self._plans = dict(wanted), settings, plans
        top = checked_top(loss)
        reach = Reach(self._wanted)
        begin = top if output is None else output.node
        reach.visit(begin)
        if self._wanted and not reach.leads(begin):
            raise CurvatureError(
                "the loss depends on none of the parameters whose curvature is wanted. Check that they are those of "
                "the model, and that no detach() or no_grad() stands between them and the loss."
            )
        is_whole = output is None and bool(self._wanted)
        recognized = recognize(loss, reach.leads if is_whole else lambda node: True, scale)
        output = recognized.output if output is None else output
        self._term, self._is_mean = recognized.term, recognized.reduction == "mean"
        self._graph = ModelGraph.of(output, reach)
        self._samples = find_sample_axis(self._graph.output, samples)
        settings.subsampling.check_in_batch(self._samples.samples)
        self._chosen = settings.subsampling.of_batch(self._samples.samples)
        self._root = OutputRoot(settings.root, self._term, self._samples, self._chosen, self._is_mean)
        self._is_apart, self._nested = is_apart, nested
        self._output_gradient: Tensor | None = None
        self._gradients: Recording | None = None
        self._recorded: Recording | None = None
        self._columns: dict[tuple[int, ...], Columns] = {}
        self._value, self._heaviest = math.nan, 1.0

    @torch.no_grad()
    def begin(self) -> None:
        """Compute the columns of V.

        Raises:
            CurvatureError: The loss was multiplied by a negative number.
            NonFiniteError: The loss is not finite.
            MemoryBudgetError: The columns do not fit the memory budget.
        """
        with torch.autocast(self.device.type, enabled=False), quiet_module_hooks(self._graph), self._nested():
            self._check_values()
            groups = tuple(entry.group for entry in self._wanted.values())  # the sizes depend on them
            signature = (self._samples, groups, self._graph.signature())
            plan = self._plans.get(signature)
            is_new = plan is None
            if plan is None:
                plan = self._make_plan(signature)
            sizes = self._prepare(plan)
            verify, is_recorded = plan.is_due or not plan.is_fixed, self._is_recorded
            if verify or not is_recorded:
                columns = self._columns_at_output()
                if not self._carry(plan, sizes, columns, verify):
                    self._plans.drop(signature)
                    plan = self._make_plan(signature)
                    sizes = self._prepare(plan)
                    if is_new or not self._carry(plan, sizes, columns, verify=True):
                        raise CurvatureError(
                            "the gradient in the model is not a linear function of the gradient at its output: a hook "
                            "on a hidden tensor, or a function of your own, changes it, as by clipping. Remove it."
                        )
            if is_recorded:
                self._recorded = self._recording(self._assembly(1, sizes), self._root.factors(self._dtype))
            if self._is_apart:
                self._term.gradient  # noqa: B018  # read now, since the graph of the loss will be gone
            self._is_checked = plan.is_due or any(map(_has_hooks, self._wanted.values()))
            plan.passes += 1
            if self._is_checked:
                self._term.hold()
            in_span = self._root.spans_gradient
            self._coefficients = self._root.coefficients(self._dtype) if in_span else None
            if not in_span or (self._is_checked and self._chosen.propagated_samples is not None):
                settings = AssemblySettings(self._dtype)
                gradients = Assembly(self._graph, self._sites, self._destinations, 1, settings, may_form=False)
                self._gradients = self._recording(gradients)
            self._gradients_before = {
                key: None if entry.parameter.grad is None else entry.parameter.grad.clone()
                for key, entry in (self._wanted.items() if self._is_checked or not in_span else ())
            }

    @contextmanager
    def record(self) -> Iterator[None]:
        """Record the gradients at the sites in the backward pass that runs inside."""
        handles = self.attach()
        try:
            with quiet_module_hooks(self._graph):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def attach(self) -> list[RemovableHandle]:
        """Record what is needed of the backward pass that follows, until the handles are removed.

        The gradients of the samples are not recorded if they are combinations of columns, and need no check.
        """
        handles: list[RemovableHandle] = []
        if self._is_apart:
            handles.append(self._graph.output[0].register_prehook(self._note_output_gradient))
        for recording in (self._recorded, self._gradients):
            handles += [] if recording is None else recording.attach()
        return handles

    def _note_output_gradient(self, gradients: tuple[Tensor | None, ...]) -> None:
        gradient = gradients[self._graph.output[1]]
        self._output_gradient = None if gradient is None else gradient.detach()

    @torch.no_grad()
    def finish(self, gradients: Mapping[int, Tensor | None] | None = None) -> Capture:
        """Return the capture, after the backward pass.

        Args:
            gradients: Gradient of each wanted parameter by `id`; by default the change of its `.grad`.

        Raises:
            CurvatureError: The per-sample gradients of a parameter do not add up to its gradient.
        """
        with torch.autocast(self.device.type, enabled=False):
            return self._finish(gradients)

    def _finish(self, given: Mapping[int, Tensor | None] | None) -> Capture:
        if self._recorded is not None:
            self._columns = self._recorded.finish()
        gradients = {} if self._gradients is None else self._gradients.finish()
        whole_gradient, in_span = self._settings.subsampling.grad is None, self._root.spans_gradient
        if self._output_gradient is not None:
            check_only_loss(self._output_gradient, self._term.gradient)
        needs_totals = self._is_checked or (whole_gradient and not in_span)
        totals: Mapping[int, Tensor | None] = {}
        if needs_totals:
            totals = {key: self._gradient_of_pass(key) for key in self._wanted} if given is None else given
        if self._is_checked:
            precision = self._graph.coarsest_precision
            compared = gradients if gradients or not in_span else self._gradients_in_span()
            check_gradients(
                self._wanted,
                compared,
                totals,
                self._gradients_before,
                self._dtype,
                precision,
                lambda: self._term.slope_rounding,
                magnitude_of(self._value),
            )
            check_reached(self._wanted, self._columns, totals, self._gradients_before)
        chosen, propagated = self._chosen, self._chosen.propagated_samples
        indices = None if propagated is None else {sample: index for index, sample in enumerate(propagated)}
        kept = {} if in_span else {keys: self._chosen_gradients(columns) for keys, columns in gradients.items()}
        count = self._samples.samples
        is_mean = self._is_mean
        return Capture(
            factors=tuple(Factor(keys, root, kept.get(keys)) for keys, root in self._columns.items()),
            columns_per_sample=self._per_sample,
            outputs=self._outputs,
            samples=len(propagated) if propagated is not None else count,
            ggn_samples=_indices(chosen.ggn_samples, indices),
            lambda_samples=_indices(chosen.lambda_samples, indices),
            grad_samples=_indices(chosen.grad_samples, indices) if in_span else (),
            grad_count=len(chosen.grad_samples),
            coefficients=self._coefficients,
            gradient_scale=float(count) if is_mean else 1.0,
            gradients={} if in_span or not whole_gradient else self._copied(totals),
            reduction="mean" if is_mean else "sum",
            loss=self._value,
            dtype=self._dtype,
            device=self.device,
            seconds=time.perf_counter() - self._begun,
            heaviest=self._heaviest,
        )

    @property
    def device(self) -> torch.device:
        """Device of the model output."""
        return self._term.output.device

    @cached_property
    def _dtype(self) -> torch.dtype:
        dtypes = {self._term.dtype, *(entry.parameter.dtype for entry in self._wanted.values())}
        return dtypes.pop() if len(dtypes) == 1 else reduce(torch.promote_types, dtypes)

    @property
    def _outputs(self) -> int:
        return self._samples.elements(self._graph.shapes[self._graph.output])

    @property
    def _per_sample(self) -> int:
        return self._settings.root.per_sample(self._outputs)

    @cached_property
    def _is_recorded(self) -> bool:
        """True if the backward pass itself brings the columns; others are carried to verify the plan alone.

        A function of Python, such as that of a compiled model, cannot be called for columns in the middle of a pass.
        """
        is_plain = not any(isinstance(site.node, BackwardCFunction) for site in self._sites)
        return self._settings.root.follows_gradient and bool(self._wanted) and not self._is_apart and is_plain

    def _check_values(self) -> None:
        """Raise unless the loss is finite and its weights are not negative; this waits for the device."""
        term = self._term
        least, largest = torch.aminmax(term.weights)
        value = self._loss.detach().to(term.dtype)
        loss, weight, heaviest = torch.stack([value.reshape(()) if value.dim() else value, least, largest]).tolist()
        self._value, self._heaviest = loss * self._scale, heaviest
        term.unit = max(unit_of_root(heaviest), unit_of_root(self._value))
        if 0 <= weight < math.inf and not math.isfinite(self._value):
            raise NonFiniteError(
                f"the loss is {self._value}. Look for diverged parameters, or NaN in the data. Model outputs are from "
                f"{float(term.output.min()):g} to {float(term.output.max()):g}."
            )
        if 0 < heaviest < LEAST_WEIGHT * torch.finfo(term.dtype).tiny:
            raise CurvatureError(
                f"the loss was multiplied by {heaviest:g} or has weights of that size, of which {term.dtype} has lost "
                "most digits. Multiply the loss by a larger constant, or use float64."
            )
        if not 0 <= weight < math.inf:
            raise CurvatureError(
                f"the loss was multiplied by {weight:g} or has weights of that size. The GGN is then not positive "
                "semi-definite. Multiply the loss by a finite constant that is not negative."
            )

    def _gradients_in_span(self) -> dict[tuple[int, ...], Columns]:
        """Return the per-sample gradients as combinations of the columns, as the step reads them."""
        assert self._coefficients is not None
        scale = self._samples.samples if self._is_mean else 1
        return {keys: columns.contracted(self._coefficients / scale) for keys, columns in self._columns.items()}

    def _make_plan(self, signature: Any) -> GraphPlan:
        plan, is_certain = make_plan(self._graph, self._samples)
        if is_certain:
            self._plans.keep(signature, plan)
        if (kinds := unknown_sharing(self._graph, plan)) and self._samples.samples > 1:
            columns = self._samples.samples * self._per_sample
            _logger.warning(
                "at %s, samples share a tensor that is not known to be made of parameters alone, such as batch "
                "statistics: %d columns are carried one for each sample below. This is exact, and costs up to as many "
                "gradients.",
                ", ".join(kinds),
                columns,
            )
        return plan

    def _columns_at_output(self) -> Tensor:
        """Return the columns at the model output, `[A, *output]`; none if no parameter is wanted."""
        if not self._wanted:
            return self._term.output.new_zeros(0, *self._term.output.shape)
        return self._root.columns(self._settings.generator(self.device))

    def _prepare(self, plan: GraphPlan) -> CapturePlan:
        """Find the sites and what becomes of the columns there, and return the sizes within the memory budget."""
        self._sites = plan.sites_of(self._graph)
        self._destinations = destinations_of(self._graph, self._sites, self._wanted)
        if plan.sizes is None:
            groups = {key: entry.group for key, entry in self._wanted.items()}
            plan.sizes = plan_capture(
                self._graph,
                self._destinations,
                groups,
                self._per_sample,
                self._dtype,
                self._samples,
                self._chosen,
                self._root.spans_gradient,
            )
        return plan.sizes.within(self._settings.budget(plan.sizes.bytes, self.device))

    def _carry(self, plan: GraphPlan, sizes: CapturePlan, columns: Tensor, verify: bool) -> bool:
        """Carry the columns at the output to all parameters, and return whether the plan fits the graph."""
        graph, at_a_time = self._graph, sizes.columns_at_a_time
        assembly = None if self._is_recorded else self._assembly(len(columns), sizes)
        magnitude = 1.0 if graph.has_half else unit_of_root(self._heaviest)
        check = Verification(graph, plan.layouts_of(graph), self._samples, magnitude) if verify else None
        is_fitting = carry_root(graph, self._destinations, columns, at_a_time, assembly, check)
        self._columns = assembly.finish() if is_fitting and assembly is not None else {}
        return is_fitting

    def _assembly(self, count: int, sizes: CapturePlan) -> Assembly:
        """Return an empty assembly of the columns, with some number of them for each sample."""
        settings = AssemblySettings(self._dtype, self._chosen.propagated_samples, sizes.slice_elements)
        return Assembly(self._graph, self._sites, self._destinations, count, settings)

    def _recording(self, assembly: Assembly, factors: Tensor | None = None) -> Recording:
        """Return a recording of the gradients at the sites, times a factor for each sample."""
        return Recording(assembly, self._sites, self._dtype, self.device, self._nested, factors)

    def _gradient_of_pass(self, key: int) -> Tensor | None:
        """Return the change of a parameter's gradient in the pass; `None` if there is no dense gradient."""
        accumulated, before = self._wanted[key].parameter.grad, self._gradients_before[key]
        if accumulated is None or accumulated.is_sparse:
            return None
        return accumulated if before is None else accumulated - before

    def _chosen_gradients(self, columns: Columns) -> Columns:
        samples = self._chosen.grad_samples
        return columns if len(samples) == self._samples.samples else columns.select(samples)

    def _copied(self, totals: Mapping[int, Tensor | None]) -> dict[int, Tensor]:
        """Return copies of the changes of the gradients in the pass, since `.grad` may change before the step."""
        found = {}
        for keys in self._columns:
            for key in keys:
                gradient = totals[key]
                if gradient is None:
                    raise CurvatureError(
                        f"{self._wanted[key].name} has no dense gradient. Use sparse=False for its layer."
                    )
                found[key] = gradient.to(self._dtype, copy=True)
        return found


def _has_hooks(entry: WantedParameter) -> bool:
    """Return whether a parameter has hooks, which may change its gradient."""
    parameter: Any = entry.parameter
    return bool(parameter._backward_hooks) or bool(parameter._post_accumulate_grad_hooks)


def _indices(samples: Sequence[int], indices: Mapping[int, int] | None) -> Sequence[int]:
    """Return the indices of samples among those whose columns are kept."""
    return samples if indices is None else tuple(indices[sample] for sample in samples)

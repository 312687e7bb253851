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
from ddn_core.engine.capture.columns import carry
from ddn_core.engine.capture.completeness import check_gradients, check_only_loss, check_reached
from ddn_core.engine.capture.destinations import WantedParameter, destinations_of
from ddn_core.engine.capture.graph import ModelGraph, Reach
from ddn_core.engine.capture.module_hooks import quiet_module_hooks
from ddn_core.engine.capture.plan import GraphPlan, PlanStore, make_plan, unknown_sharing
from ddn_core.engine.capture.result import Capture
from ddn_core.engine.capture.settings import CaptureSettings
from ddn_core.engine.capture.sites import Site
from ddn_core.engine.capture.verification import Verification
from ddn_core.engine.factors import Columns, Factor
from ddn_core.engine.losses import checked_top, recognize
from ddn_core.engine.nodes import dtype_of
from ddn_core.errors import CurvatureError, NonFiniteError

_logger = logging.getLogger("ddn_core")


class CurvaturePass:
    """The capture of one backward pass.

    `begin` computes the columns of V, while the graph is there. `record` surrounds the backward pass itself, which
    brings the per-sample gradients. `finish` checks the gradients and returns the capture. Where the column of a sample
    is its gradient times a number, the backward pass brings the columns, too, and `begin` carries some only in passes
    that verify the plan.
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
        self._is_apart, self._nested = is_apart, nested
        self._output_gradient: Tensor | None = None
        self._gradients: Assembly | None = None
        self._recorded: Assembly | None = None
        self._columns: dict[tuple[int, ...], Columns] = {}
        self._value = math.nan

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
                root = self._root() if self._wanted else self._term.output.new_zeros(0, *self._term.output.shape)
                if not self._compute(plan, sizes, root, verify):
                    self._plans.drop(signature)
                    plan = self._make_plan(signature)
                    sizes = self._prepare(plan)
                    if is_new or not self._compute(plan, sizes, root, verify=True):
                        raise CurvatureError(
                            "the gradient in the model is no linear function of the gradient at its output: a hook on "
                            "a hidden tensor, or a function of your own, changes it, as by clipping. Remove it."
                        )
            if is_recorded:
                self._recorded = self._assembly(1, sizes)
            if self._is_apart:
                self._term.gradient  # noqa: B018  # read now, since the graph of the loss will be gone
            self._is_checked = plan.is_due or any(map(_has_hooks, self._wanted.values()))
            plan.passes += 1
            if self._is_checked:
                self._term.hold()
            self._coefficients = self._gradient_coefficients() if self._in_span else None
            self._gradients_before = {
                key: None if entry.parameter.grad is None else entry.parameter.grad.clone()
                for key, entry in (self._wanted.items() if self._is_checked or not self._in_span else ())
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
        """Record the gradients at the sites in the backward pass that follows, until the handles are removed.

        Nothing is recorded where nothing is needed: the gradients are in the span of the columns, and not checked.
        """
        handles: list[RemovableHandle] = []
        if self._is_apart:
            handles.append(self._graph.output[0].register_prehook(self._note_output_gradient))
        if self._recorded is not None:
            factors = (self._factors * self._root_scale).to(self._dtype)
            handles += [
                site.node.register_prehook(self._recorder(self._recorded, site, factors)) for site in self._sites
            ]
        if self._in_span and not (self._is_checked and self._chosen.propagated_samples is not None):
            return handles
        settings = AssemblySettings(self._dtype)
        self._gradients = Assembly(self._graph, self._sites, self._destinations, 1, settings, may_form=False)
        return handles + [site.node.register_prehook(self._recorder(self._gradients, site)) for site in self._sites]

    def _note_output_gradient(self, gradients: tuple[Tensor | None, ...]) -> None:
        gradient = gradients[self._graph.output[1]]
        self._output_gradient = None if gradient is None else gradient.detach()

    def _recorder(
        self, assembly: Assembly, site: Site, factors: Tensor | None = None
    ) -> Callable[[tuple[Tensor | None, ...]], None]:
        """Return a hook that adds the gradients at a site to an assembly, times a factor for each sample."""
        is_busy = False

        def record(gradients: tuple[Tensor | None, ...]) -> None:
            nonlocal is_busy
            if is_busy:
                return  # a node without a rule is called for the columns, which calls its hooks
            is_busy = True
            with torch.no_grad(), torch.autocast(self.device.type, enabled=False), self._nested():
                given = {}
                for edge, layout, gradient in zip(site.outputs, site.layouts, gradients, strict=True):
                    if edge is not None and gradient is not None:
                        own = gradient.detach()
                        if factors is not None and layout is not None:
                            own = own.to(self._dtype) if own.is_floating_point() else own  # it may be complex
                            own = own * layout.spread(factors, own.shape)
                        given[edge] = own[None]
                assembly.add(slice(0, 1), given.get, only=site)
            is_busy = False

        return record

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
        whole_gradient = self._settings.subsampling.grad is None
        if self._output_gradient is not None:
            check_only_loss(self._output_gradient, self._term.gradient)
        needs_totals = self._is_checked or (whole_gradient and not self._in_span)
        totals: Mapping[int, Tensor | None] = {}
        if needs_totals:
            totals = {key: self._gradient_of_pass(key) for key in self._wanted} if given is None else given
        if self._is_checked:
            precision = self._graph.coarsest_precision
            compared = gradients if gradients or not self._in_span else self._gradients_in_span()
            check_gradients(
                self._wanted,
                compared,
                totals,
                self._gradients_before,
                self._dtype,
                precision,
                lambda: self._term.slope_rounding,
            )
            check_reached(self._wanted, self._columns, totals, self._gradients_before)
        in_span, chosen = self._in_span, self._chosen
        propagated = chosen.propagated_samples
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

    @property
    def _in_span(self) -> bool:
        """True if the per-sample gradients are combinations of columns."""
        return self._settings.root.spans_gradient and self._chosen.columns_cover_gradient

    @cached_property
    def _is_recorded(self) -> bool:
        """True if the backward pass itself brings the columns; others are carried to verify the plan alone.

        A function of Python, such as that of a compiled model, cannot be called for columns in the middle of a pass.
        """
        is_plain = not any(isinstance(site.node, BackwardCFunction) for site in self._sites)
        return self._settings.root.follows_gradient and bool(self._wanted) and not self._is_apart and is_plain

    @property
    def _root_scale(self) -> float:
        """Factor that scales the root, so that `G = V Vᵀ` for the samples of the GGN."""
        is_mean = self._is_mean
        return math.sqrt(self._samples.samples / len(self._chosen.ggn_samples)) if is_mean else 1.0

    def _check_values(self) -> None:
        """Raise unless the loss is finite and its weights are not negative; this waits for the device."""
        term = self._term
        least = term.least_weight().to(term.dtype)
        value = (self._loss.detach().to(term.dtype) * self._scale).reshape(())
        self._value, weight = torch.stack([value, least]).tolist()
        if 0 <= weight < math.inf and not math.isfinite(self._value):
            raise NonFiniteError(
                f"the loss is {self._value}. Look for diverged parameters, or NaN in the data. Model outputs are from "
                f"{float(term.output.min()):g} to {float(term.output.max()):g}."
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

    def _root(self) -> Tensor:
        """Return the root of the loss Hessian at the model output, `[A, *output]`."""
        root = self._settings.root.columns(self._term, self._samples, self._settings.generator(self.device))
        return root if self._root_scale == 1 else root * self._root_scale

    @cached_property
    def _factors(self) -> Tensor:
        """Factors that turn the gradients of the samples into columns, `[N]`."""
        return self._settings.root.factors(self._term, self._samples)

    def _gradient_coefficients(self) -> Tensor:
        """Return the coefficients c of the per-sample gradients, `g_n = V_n c_n`, `[samples, C]`."""
        is_mean, propagated = self._is_mean, self._chosen.propagated_samples
        scale = (self._samples.samples if is_mean else 1) / self._root_scale
        root = self._settings.root
        is_known = root.follows_gradient and self._is_recorded
        own = root.inverse(self._factors) if is_known else root.coefficients(self._term, self._samples)
        coefficients = own.to(self._dtype) * scale
        return coefficients if propagated is None else coefficients[list(propagated)]

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
                self._in_span,
            )
        return plan.sizes.within(self._settings.budget(plan.sizes.bytes, self.device))

    def _compute(self, plan: GraphPlan, sizes: CapturePlan, root: Tensor, verify: bool) -> bool:
        """Carry the columns to all parameters, and return whether the plan fits the graph."""
        graph = self._graph
        self._columns = {}
        assembly = self._assembly(len(root), sizes)
        edges = [edge for edge in self._destinations.edges() if edge != graph.output]
        layouts = plan.layouts_of(graph)
        check = Verification(graph, layouts, self._samples) if verify and edges else None
        step = sizes.columns_at_a_time
        output_dtype = dtype_of(graph.output)
        for start in range(0, len(root), step):
            columns = slice(start, min(start + step, len(root)))
            chunk = root[columns].to(output_dtype)
            is_last = columns.stop == len(root)
            carried = torch.cat([chunk, check.extra(root).to(output_dtype)[None]]) if check and is_last else chunk
            found = dict(zip(edges, carry([graph.output], edges, [carried], graph.widest), strict=True))
            if check is not None:
                for edge in edges:
                    found[edge] = check.take(edge, found[edge], is_last)
                if is_last and not check.passed():
                    return False
            found[graph.output] = chunk
            if not self._is_recorded:
                assembly.add(columns, lambda edge, found=found: found.pop(edge, None))  # type: ignore[misc]
        self._columns = assembly.finish()
        return True

    def _assembly(self, count: int, sizes: CapturePlan) -> Assembly:
        """Return an empty assembly of the columns, with some number of them for each sample."""
        settings = AssemblySettings(self._dtype, self._chosen.propagated_samples, sizes.slice_elements)
        return Assembly(self._graph, self._sites, self._destinations, count, settings)

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

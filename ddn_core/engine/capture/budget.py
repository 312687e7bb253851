"""The plan of a capture: operations, bytes and sizes of chunks and slices, computed before anything is allocated.

The plan follows from the shapes in a forward pass. It decides how many columns are propagated, and how many are formed,
at a time, and `cost.py` reports it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

from ddn_core.engine.capture.destinations import Destinations
from ddn_core.engine.capture.factor_plan import FactorPlan, plan_factor
from ddn_core.engine.capture.graph import ModelGraph
from ddn_core.engine.capture.subsampling import ChosenSamples
from ddn_core.engine.factors.product import SLICE_ELEMENTS
from ddn_core.engine.sample_axis import SampleAxis
from ddn_core.errors import MemoryBudgetError

CHUNK_ELEMENTS = 2**21
"""Largest number of elements of the columns that are propagated at a time, at the widest layer output."""
COPIES = 3
"""Number of copies of a layer's columns during propagation: before, after, and in between."""
CHECKED_COLUMNS = 1
"""Number of columns that the check of a plan adds: its additional column, from which the others are subtracted."""
ROOT_COPIES = 2
"""Number of copies of the root of the loss Hessian: with and without the normalization of the loss."""
GRAM_COPIES = 5
"""Number of matrices of the size of the Gram matrix: the matrix, its eigenvectors and the solver's workspace; or the
matrix, a copy and a Cholesky factor in float64."""


@dataclass(frozen=True)
class CapturePlan:
    """Operations, bytes, and sizes of chunks and slices of a pass.

    Attributes:
        factors: Plan of each factor.
        samples: Number of samples whose columns are propagated.
        per_sample: Number of columns for each sample.
        outputs: Number of elements of the model output for one sample.
        widest: Largest number of elements of a column at any edge, for one sample.
        batch: Number of samples in the batch; columns are carried for all of them.
        site_elements: Number of elements of a column at all sites together, for one sample.
        below_elements: Number of elements of one sample's column at the widest edge at which it is carried alone.
        propagation_operations: Number of operations to propagate all columns.
        itemsize: Number of bytes of an element.
        input_bytes: Number of bytes of the inputs of layers with parameters, for one sample.
        cast_bytes: Number of bytes of those inputs that are cast to a wider dtype, for one sample.
        gram_samples: Number of samples of the GGN.
        copied_samples: Number of samples whose inputs, outputs and gradients are copied.
        reselected_count: Number of samples that are selected from those with columns; their factors are copied.
        copies_gradients: True if the parameters' gradients are copied, because they are not combinations of columns.
        records_gradients: True if the gradients at the sites are held: for per-sample gradients, or to be checked.
        chunk_elements: Largest number of elements of the columns that are propagated at a time.
        slice_elements: Largest number of elements of the columns that are formed at a time.
    """

    factors: tuple[FactorPlan, ...]
    samples: int
    per_sample: int
    outputs: int
    widest: int
    batch: int
    site_elements: int
    below_elements: int
    propagation_operations: float
    itemsize: int
    input_bytes: int
    cast_bytes: int
    gram_samples: int
    copied_samples: int
    reselected_count: int
    copies_gradients: bool
    records_gradients: bool
    chunk_elements: int = CHUNK_ELEMENTS
    slice_elements: int = SLICE_ELEMENTS

    @property
    def columns(self) -> int:
        """Number of columns that are propagated."""
        return self.samples * self.per_sample

    @property
    def gram_columns(self) -> int:
        """Number of columns of the GGN, R."""
        return self.gram_samples * self.per_sample

    @property
    def factor_bytes(self) -> int:
        """Number of bytes of all factors."""
        return sum(factor.bytes for factor in self.factors)

    @property
    def copied_bytes(self) -> int:
        """Number of bytes of copies of activations, gradients and factors."""
        gradients = self.copies_gradients * self.itemsize * sum(factor.size for factor in self.factors)
        factors = self.reselected_count * (self.factor_bytes // max(1, self.samples) + self.input_bytes)
        recorded = self.records_gradients * self.itemsize * self.batch * self.site_elements
        return gradients + recorded + factors + self.copied_samples * self.input_bytes + self.samples * self.cast_bytes

    @property
    def gram_bytes(self) -> int:
        """Largest number of bytes of a group's Gram matrix and its eigenvectors."""
        return max((self.gram_bytes_of(group) for group in {factor.group for factor in self.factors}), default=0)

    def gram_bytes_of(self, group: int) -> int:
        """Return the number of bytes of a group's Gram matrix and its eigenvectors; of its GGN, if that is smaller."""
        size = sum(factor.size for factor in self.factors if factor.group == group)
        formed = 2 * self.gram_columns * size if size < self.gram_columns else 0
        return self.itemsize * (GRAM_COPIES * min(size, self.gram_columns) ** 2 + formed)

    @property
    def columns_at_a_time(self) -> int:
        """Number of columns of each sample that are carried at a time."""
        return min(self.per_sample, max(1, self.chunk_elements // max(1, self.widest * self.batch)))

    @property
    def chunk_bytes(self) -> int:
        """Number of bytes in addition to the factors while columns are carried."""
        features = max((factor.feature_bytes for factor in self.factors if factor.storage == "formed"), default=0)
        root = ROOT_COPIES * self.per_sample * self.outputs * self.batch
        at_a_time = self.columns_at_a_time
        elements = COPIES * at_a_time * self.widest + (at_a_time + CHECKED_COLUMNS) * self.site_elements
        carried = self.batch * elements
        alone = self.columns_at_a_time * self.batch * self.below_elements
        return self.itemsize * (carried + root + alone) + features

    @property
    def product_bytes(self) -> int:
        """Number of bytes in addition to the factors and the Gram matrix while products are computed."""
        return max(
            (
                factor.feature_bytes + max(factor.slice_bytes, 2 * self.itemsize * self.slice_elements)
                for factor in self.factors
                if factor.storage == "structured" and factor.contraction != "outer"
            ),
            default=0,
        )

    @property
    def bytes(self) -> int:
        """Largest number of bytes at any time, in addition to the memory of forward and backward pass."""
        return self.copied_bytes + self.factor_bytes + max(self.chunk_bytes, self.gram_bytes + self.product_bytes)

    def within(self, budget: int | None) -> CapturePlan:
        """Return the plan with chunks and slices small enough for a budget.

        Args:
            budget: Memory budget in bytes; `None` for no limit.

        Raises:
            MemoryBudgetError: The smallest chunks and slices need more than the budget.
        """
        if budget is None or self.bytes <= budget:
            return self
        smallest = self._with(1, 1)
        if smallest.bytes > budget:
            raise MemoryBudgetError(self._too_large(smallest.bytes, budget))
        chunk, slices = self.chunk_elements, self.slice_elements
        while self._with(chunk, slices).bytes > budget:
            chunk, slices = max(1, chunk // 2), max(1, slices // 2)
        return self._with(chunk, slices)

    def _with(self, chunk: int, slices: int) -> CapturePlan:
        return replace(self, chunk_elements=chunk, slice_elements=slices)

    def _smallest(self, samples: int, per_sample: int) -> CapturePlan:
        """Return the plan with the smallest chunks and slices, for other numbers of columns."""
        factors = tuple(
            plan_factor(
                factor.group, factor.shape, factor.storage, samples, per_sample, self.itemsize, factor.site_elements
            )
            for factor in self.factors
        )
        return replace(self, factors=factors, samples=samples, per_sample=per_sample)._with(1, 1)

    def _most_samples(self, budget: int, selected: bool) -> int:
        """Return the largest number of samples that fits, 0 if none does.

        Args:
            budget: Memory budget in bytes.
            selected: True for a sub-sample of a batch, False for a whole batch.
        """

        def fits(count: int) -> bool:
            copied, gradients = (count, True) if selected else (0, self.copies_gradients)
            batch = self.batch if selected else count
            plan = replace(self._smallest(count, self.per_sample), gram_samples=count, reselected_count=0, batch=batch)
            recorded = selected or self.records_gradients
            plan = replace(plan, copied_samples=copied, copies_gradients=gradients, records_gradients=recorded)
            return plan.bytes <= budget

        return _largest(fits, self.samples - 1)

    def _most_monte_carlo_samples(self, budget: int) -> int:
        """Return the largest number of Monte-Carlo samples that fits, smaller than `per_sample`; 0 if none does."""
        return _largest(
            lambda count: (
                replace(self._smallest(self.samples, count), copies_gradients=True, records_gradients=True).bytes
                <= budget
            ),
            self.per_sample - 1,
        )

    def _too_large(self, needed: int, budget: int) -> str:
        """Return the error message: the memory needed, the budget, and settings that fit."""
        advice = []
        for name, selected in (("batches", False), ("a subsampling_ggn", True)):
            if most := self._most_samples(budget, selected):
                advice.append(f"{name} of at most {most} sample{'s' * (most > 1)}")
        if most := self._most_monte_carlo_samples(budget):
            advice.append(f"at most {most} Monte-Carlo samples (kind = 'ggn-mc', mc_samples = {most})")
        groups = {factor.group for factor in self.factors}
        alone = {
            group: replace(
                self,
                factors=tuple(factor for factor in self.factors if factor.group == group),
                site_elements=sum(factor.site_elements for factor in self.factors if factor.group == group),
            )
            ._with(1, 1)
            .bytes
            for group in groups
        }
        if len(groups) > 1 and (fits := [group for group in sorted(groups) if alone[group] <= budget]):
            advice.append(f"freezing all groups but one of {', '.join(map(str, fits))}")
        if not advice:
            advice.append("only a larger budget: not even one Monte-Carlo sample of one sample fits this one")
        return (
            f"the curvature of {self.columns} columns ({self.samples} samples with {self.per_sample} each) needs "
            f"{format_bytes(needed)} in addition to the gradient's memory, even with the smallest slices: "
            f"{format_bytes(self.factor_bytes)} for the factors, {format_bytes(self.gram_bytes)} for the Gram matrix "
            f"and its eigenvectors. The memory budget is {format_bytes(budget)}. What fits: {'; or '.join(advice)}."
        )


def _largest(fits: Callable[[int], bool], most: int) -> int:
    """Return the largest number up to `most` that fits, 0 if none does; smaller numbers fit where larger ones do."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def plan_capture(
    graph: ModelGraph,
    destinations: Destinations,
    groups: Mapping[int, int],
    per_sample: int,
    dtype: torch.dtype,
    samples: SampleAxis,
    chosen: ChosenSamples,
    in_span: bool,
) -> CapturePlan:
    """Return the plan of a capture without a memory limit.

    Args:
        graph: The graph; only its shapes are used.
        destinations: What becomes of the columns at the sites.
        groups: Number of the group of each wanted parameter, by `id`.
        per_sample: Number of columns for each sample.
        dtype: Dtype that curvature is computed in.
        samples: Axis of the samples at the model output.
        chosen: Samples of gradient, directions and directional curvatures.
        in_span: True if the per-sample gradients are combinations of columns.
    """
    itemsize = torch.empty(0, dtype=dtype).element_size()
    count = chosen.batch if chosen.propagated_samples is None else len(chosen.propagated_samples)
    whole_gradient = len(chosen.grad_samples) == chosen.batch
    inputs = [
        use.form.values for use in destinations.uses if use.form is not None and use.form.values.is_floating_point()
    ]
    input_bytes = {id(values): itemsize * values.numel() // max(1, len(values)) for values in inputs}
    below = [(groups[key], size, edges) for key, size, edges in destinations.parameters_below(graph)]
    return CapturePlan(
        factors=(
            *(
                plan_factor(
                    groups[id(use.parameters[0])],
                    use.shape,
                    "formed" if use.is_kept_formed else "structured",
                    count,
                    per_sample,
                    itemsize,
                    use.site_elements,
                )
                for use in destinations.uses
            ),
            *(plan_factor(group, (1, 1, size, 1), "formed", count, per_sample, itemsize) for group, size, _ in below),
        ),
        samples=count,
        per_sample=per_sample,
        outputs=samples.elements(graph.shapes[graph.output]),
        widest=graph.widest // samples.samples,
        batch=samples.samples,
        site_elements=sum(graph.shapes[edge].numel() for edge in destinations.edges()) // samples.samples,
        below_elements=max((edges for _, _, edges in below), default=0),
        propagation_operations=float(count * per_sample * _operations(graph, destinations, samples)),
        itemsize=itemsize,
        input_bytes=sum(input_bytes.values()),
        cast_bytes=sum(input_bytes[id(values)] for values in inputs if values.dtype != dtype),
        gram_samples=len(chosen.ggn_samples),
        copied_samples=0 if chosen.propagated_samples is None else count,
        reselected_count=chosen.reselected_count,
        copies_gradients=whole_gradient and not in_span,
        records_gradients=not in_span or chosen.propagated_samples is not None,
    )


def _operations(graph: ModelGraph, destinations: Destinations, samples: SampleAxis) -> int:
    """Return the number of operations to carry one column of one sample from the model output to the sites."""
    products = 0
    for use in destinations.uses:
        site = use.site
        if use.form is not None and len(graph.below[site.node]) > len(site.shared):  # columns go on below the site
            groups, outputs, features, positions = use.shape
            products += groups * outputs * features * positions
    carried = [
        shape for (node, _), shape in graph.shapes.items() if graph.kinds.get(node) not in ("AccumulateGrad", "T")
    ]
    return products + sum(shape.numel() for shape in carried) // samples.samples


def format_bytes(count: float) -> str:
    """Return a number of bytes as text with a unit, such as `1.3 GB`."""
    for unit in ("B", "kB", "MB"):
        if abs(count) < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"

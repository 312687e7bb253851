"""The plan of a capture: operations, bytes and sizes of chunks and slices, computed before anything is allocated.

The plan follows from the shapes in a forward pass. It decides how many columns are propagated, and how many are formed,
at a time, and `cost.py` reports it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from ddn_core.engine.capture.factor_plan import FactorPlan, plan_factor
from ddn_core.engine.capture.factor_specs import FactorSpec
from ddn_core.engine.capture.families import FAMILIES
from ddn_core.engine.capture.subsampling import ChosenSamples
from ddn_core.engine.capture.tape import LayerCall, keys_leading_to
from ddn_core.engine.factors.product import SLICE_ELEMENTS
from ddn_core.errors import MemoryBudgetError

CHUNK_ELEMENTS = 2**21
"""Largest number of elements of the columns that are propagated at a time, at the widest layer output."""
COPIES = 3
"""Number of copies of a layer's columns during propagation: before, after, and in between."""
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
        widest: Largest number of elements of a column at any layer output.
        slope_elements: Largest number of elements of the slopes of one sample.
        propagation_operations: Number of operations to propagate all columns.
        itemsize: Number of bytes of an element.
        activation_bytes: Number of bytes of the layers' inputs, outputs and gradients for one sample.
        input_bytes: Number of bytes of the inputs of layers with parameters, for one sample.
        cast_bytes: Number of bytes of those inputs that are cast to a wider dtype, for one sample.
        gram_samples: Number of samples of the GGN.
        copied_samples: Number of samples whose inputs, outputs and gradients are copied.
        reselected_count: Number of samples that are selected from those with columns; their factors are copied.
        copies_gradients: True if the parameters' gradients are copied, because they are not combinations of columns.
        chunk_elements: Largest number of elements of the columns that are propagated at a time.
        slice_elements: Largest number of elements of the columns that are formed at a time.
    """

    factors: tuple[FactorPlan, ...]
    samples: int
    per_sample: int
    outputs: int
    widest: int
    slope_elements: int
    propagation_operations: float
    itemsize: int
    activation_bytes: int
    input_bytes: int
    cast_bytes: int
    gram_samples: int
    copied_samples: int
    reselected_count: int
    copies_gradients: bool
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
        return gradients + factors + self.copied_samples * self.activation_bytes + self.samples * self.cast_bytes

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
    def chunk_bytes(self) -> int:
        """Number of bytes in addition to the factors while columns are propagated."""
        at_a_time = max(1, min(self.chunk_elements // max(1, self.widest), self.columns))
        samples = -(-at_a_time // self.per_sample)
        features = max((factor.feature_bytes for factor in self.factors if factor.storage == "formed"), default=0)
        per_sample = self.itemsize * self.slope_elements + features // max(1, self.samples)
        root = ROOT_COPIES * self.columns * self.outputs
        return self.itemsize * (COPIES * at_a_time * self.widest + root) + samples * per_sample

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
            plan_factor(factor.group, factor.shape, factor.storage, samples, per_sample, self.itemsize)
            for factor in self.factors
        )
        return replace(self, factors=factors, samples=samples, per_sample=per_sample)._with(1, 1)

    def _most_samples(self, budget: int, selected: bool) -> int:
        """Return the largest number of samples that fits, 0 if none does.

        Args:
            budget: Memory budget in bytes.
            selected: True for a sub-sample of a batch, False for a whole batch.
        """
        for count in range(self.samples - 1, 0, -1):
            copied, gradients = (count, True) if selected else (0, self.copies_gradients)
            plan = replace(self._smallest(count, self.per_sample), gram_samples=count, reselected_count=0)
            if replace(plan, copied_samples=copied, copies_gradients=gradients).bytes <= budget:
                return count
        return 0

    def _most_monte_carlo_samples(self, budget: int) -> int:
        """Return the largest number of Monte-Carlo samples that fits, smaller than `per_sample`; 0 if none does."""
        for count in range(self.per_sample - 1, 0, -1):
            if replace(self._smallest(self.samples, count), copies_gradients=True).bytes <= budget:
                return count
        return 0

    def _too_large(self, needed: int, budget: int) -> str:
        """Return the error message: the memory needed, the budget, and settings that fit."""
        advice = []
        for name, selected in (("batches", False), ("a subsampling_ggn", True)):
            if most := self._most_samples(budget, selected):
                advice.append(f"{name} of at most {most} samples")
        if most := self._most_monte_carlo_samples(budget):
            advice.append(f"at most {most} Monte-Carlo samples (kind = 'ggn-mc', mc_samples = {most})")
        groups = {factor.group for factor in self.factors}
        alone = {
            group: replace(self, factors=tuple(factor for factor in self.factors if factor.group == group))
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


def plan_capture(
    calls: Sequence[LayerCall],
    specs: Sequence[FactorSpec],
    groups: Sequence[int],
    per_sample: int,
    dtype: torch.dtype,
    chosen: ChosenSamples,
    in_span: bool,
) -> CapturePlan:
    """Return the plan of a capture without a memory limit.

    Args:
        calls: Calls of the layers, in the order of the backward pass; only their shapes are used.
        specs: Specifications of the factors.
        groups: Number of the group of each factor.
        per_sample: Number of columns for each sample.
        dtype: Dtype that curvature is computed in.
        chosen: Samples of gradient, directions and directional curvatures.
        in_span: True if the per-sample gradients are combinations of columns.
    """
    itemsize = torch.empty(0, dtype=dtype).element_size()
    samples = chosen.batch if chosen.propagated_samples is None else len(chosen.propagated_samples)
    whole_gradient = len(chosen.grad_samples) == chosen.batch
    copied = 0 if chosen.propagated_samples is None else samples
    seen = {id(spec.call): spec.call.inputs[0] for spec in specs if spec.call.inputs[0].is_floating_point()}
    input_bytes = {key: itemsize * values.numel() // max(1, len(values)) for key, values in seen.items()}
    wanted = {id(parameter) for spec in specs for parameter in spec.parameters}
    leading = keys_leading_to(calls, wanted)
    passed = [call for call in calls if any(key in leading for key in call.input_keys)]
    reached = [call for call in calls if call.output_key in leading]
    return CapturePlan(
        factors=tuple(
            plan_factor(
                group,
                spec.shape,
                "formed" if spec.is_kept_formed else "structured",
                samples,
                per_sample,
                itemsize,
            )
            for spec, group in zip(specs, groups, strict=True)
        ),
        samples=samples,
        per_sample=per_sample,
        outputs=calls[0].output[0].numel() if calls else 0,
        widest=max((call.output[0].numel() for call in reached), default=1),
        slope_elements=2 * sum(call.output[0].numel() for call in passed),
        propagation_operations=float(samples * per_sample * sum(_operations(call) for call in passed)),
        itemsize=itemsize,
        activation_bytes=sum(call.sample_bytes for call in calls),
        input_bytes=sum(input_bytes.values()),
        cast_bytes=sum(input_bytes[key] for key, values in seen.items() if values.dtype != dtype),
        gram_samples=len(chosen.ggn_samples),
        copied_samples=copied + (0 if in_span or whole_gradient else len(chosen.grad_samples)),
        reselected_count=chosen.reselected_count,
        copies_gradients=whole_gradient and not in_span,
    )


def _operations(call: LayerCall) -> int:
    """Return the number of operations to propagate one column of one sample through a layer."""
    if type(call.layer) not in FAMILIES:
        return call.output[0].numel()
    groups, outputs, features, positions = FactorSpec(call, ("weight",)).shape
    return groups * outputs * features * positions


def format_bytes(count: float) -> str:
    """Return a number of bytes as text with a unit, such as `1.3 GB`."""
    for unit in ("B", "kB", "MB"):
        if abs(count) < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"

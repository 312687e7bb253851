"""What curvature will take, counted before anything is allocated: operations and bytes, and the sizes of the slices.

Everything follows from the shapes that a forward pass shows. The same count decides how a pass is made (how many
columns are propagated at a time, how many are formed at a time) and tells what it will cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from ddn_core.engine.capture.factor_plan import FactorPlan, plan_factor
from ddn_core.engine.capture.factor_specs import FactorSpec
from ddn_core.engine.capture.subsampling import ChosenSamples
from ddn_core.engine.capture.tape import LayerCall, keys_leading_to
from ddn_core.engine.factors import FAMILIES
from ddn_core.engine.factors.product import SLICE_ELEMENTS
from ddn_core.errors import MemoryBudgetError

CHUNK_ELEMENTS = 2**21
"""Number of elements up to which columns are propagated at a time, counted at the widest layer."""
COPIES = 3
"""How often a layer's columns are held while they are propagated: before, after, and in between."""
ROOT_COPIES = 2
"""How often the root of the loss Hessian is held: with and without the normalization of the loss."""
GRAM_COPIES = 5
"""How often a matrix of the size of the Gram matrix is held: itself, with eigenvectors and the solver's workspace, or
with a copy and a factor of it in float64."""


@dataclass(frozen=True)
class CapturePlan:
    """What a pass takes, and how it is made.

    Attributes:
        factors: What each factor takes.
        samples: Number of samples that columns are propagated for.
        per_sample: Number of columns for each.
        outputs: Number of elements of the model output for one sample.
        widest: Largest number of elements that a column has at any layer's output.
        slope_elements: Number of elements that the slopes of one sample take at most.
        propagation_operations: Operations of the backpropagation of all columns.
        itemsize: Bytes of a number.
        activation_bytes: What the layers' inputs, outputs and gradients take for one sample.
        input_bytes: What the inputs of the layers with parameters take for one sample.
        cast_bytes: What they take for one sample where they are cast to a wider dtype.
        gram_samples: Number of samples of the GGN.
        copied_samples: Number of samples whose inputs, outputs and gradients are copied.
        reselected_count: Number of samples that are selected from those with columns, which copies their factors.
        copies_gradients: Whether the parameters' gradients are copied: they are not combinations of columns.
        chunk_elements: Number of elements up to which columns are propagated at a time.
        slice_elements: Number of elements up to which columns are formed at a time.
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
        """What the factors hold."""
        return sum(factor.bytes for factor in self.factors)

    @property
    def copied_bytes(self) -> int:
        """What is copied of the pass, of its gradients, and of the factors."""
        gradients = self.copies_gradients * self.itemsize * sum(factor.size for factor in self.factors)
        factors = self.reselected_count * (self.factor_bytes // max(1, self.samples) + self.input_bytes)
        return gradients + factors + self.copied_samples * self.activation_bytes + self.samples * self.cast_bytes

    @property
    def gram_bytes(self) -> int:
        """The most that the Gram matrix of a group and its eigenvectors hold."""
        return max((self.gram_bytes_of(group) for group in {factor.group for factor in self.factors}), default=0)

    def gram_bytes_of(self, group: int) -> int:
        """Return what a group's Gram matrix and its eigenvectors hold; its GGN, if it has fewer parameters."""
        size = sum(factor.size for factor in self.factors if factor.group == group)
        formed = 2 * self.gram_columns * size if size < self.gram_columns else 0
        return self.itemsize * (GRAM_COPIES * min(size, self.gram_columns) ** 2 + formed)

    @property
    def chunk_bytes(self) -> int:
        """What is held beside the factors while columns are propagated."""
        at_a_time = max(1, min(self.chunk_elements // max(1, self.widest), self.columns))
        samples = -(-at_a_time // self.per_sample)
        features = max((factor.feature_bytes for factor in self.factors if factor.storage == "formed"), default=0)
        per_sample = self.itemsize * self.slope_elements + features // max(1, self.samples)
        root = ROOT_COPIES * self.columns * self.outputs
        return self.itemsize * (COPIES * at_a_time * self.widest + root) + samples * per_sample

    @property
    def product_bytes(self) -> int:
        """What is held beside the factors and the Gram matrix while products are computed."""
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
        """The most that is held at a time, beyond what forward and backward pass hold."""
        return self.copied_bytes + self.factor_bytes + max(self.chunk_bytes, self.gram_bytes + self.product_bytes)

    def within(self, budget: int | None) -> CapturePlan:
        """Return the plan with chunks and slices as small as a budget wants them.

        Args:
            budget: Number of bytes; `None` for no limit.

        Raises:
            MemoryBudgetError: The smallest ones are too large.
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
        """Return how many samples would fit, 0 if none: those of a batch, or some that are selected from one."""
        for count in range(self.samples - 1, 0, -1):
            copied, gradients = (count, True) if selected else (0, self.copies_gradients)
            plan = replace(self._smallest(count, self.per_sample), gram_samples=count, reselected_count=0)
            if replace(plan, copied_samples=copied, copies_gradients=gradients).bytes <= budget:
                return count
        return 0

    def _most_monte_carlo_samples(self, budget: int) -> int:
        """Return how many Monte-Carlo samples would fit in place of this number of columns, 0 if none."""
        for count in range(self.per_sample - 1, 0, -1):
            if replace(self._smallest(self.samples, count), copies_gradients=True).bytes <= budget:
                return count
        return 0

    def _too_large(self, needed: int, budget: int) -> str:
        """Return what is needed, and what would fit."""
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
            advice.append("a larger budget only: a single Monte-Carlo sample of a single sample does not")
        return (
            f"the curvature of {self.columns} columns ({self.samples} samples with {self.per_sample} each) needs "
            f"{format_bytes(needed)} beyond the gradient's memory, in the smallest slices: "
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
    """Return what curvature takes, without a limit.

    Args:
        calls: Calls of the layers, in the order of the backward pass; only their shapes are read.
        specs: What factors are made of.
        groups: Number of the group of each spec.
        per_sample: Number of columns for each sample.
        dtype: Dtype that curvature is computed in.
        chosen: The samples that the pass is about.
        in_span: Whether the gradients are combinations of columns.
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
    """Return the operations of the backpropagation of one column of one sample through a layer."""
    if type(call.layer) not in FAMILIES:
        return call.output[0].numel()
    groups, outputs, features, positions = FactorSpec(call, ("weight",)).shape
    return groups * outputs * features * positions


def format_bytes(count: float) -> str:
    """Return a number of bytes as one reads it: `1.3 GB`."""
    for unit in ("B", "kB", "MB"):
        if abs(count) < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"

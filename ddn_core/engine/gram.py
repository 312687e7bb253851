"""The curvature of a group: V and the per-sample gradients as sums over its factors, and products with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce

import torch
from torch import Size, Tensor

from ddn_core.engine.capture import Capture
from ddn_core.engine.factors import Columns, Factor, ParameterVectors, mirror

EXACT = 640
"""Number of parameters up to which the GGN is computed in float64; for so few, this costs little."""


@dataclass(frozen=True, eq=False)
class GroupCurvature:
    """V and the per-sample gradients of one group, as the sum over its parameters' factors.

    In this class, columns and rows are in samples-first order: column `(n, c)` has the index `n · C + c`.

    Attributes:
        capture: Capture of the backward pass.
        factors: Factors of the parameters that the loss reaches.
        parameters: `id`s of the group's parameters, in order.
        shapes: Shapes of the group's parameters.
    """

    capture: Capture
    factors: tuple[Factor, ...]
    parameters: tuple[int, ...]
    shapes: tuple[Size, ...]

    @classmethod
    def of(cls, capture: Capture, parameters: Sequence[Tensor]) -> GroupCurvature:
        """Return the curvature of a group of parameters."""
        ids = tuple(id(parameter) for parameter in parameters)
        return cls(
            capture=capture,
            factors=tuple(factor for factor in capture.factors if set(factor.parameters) <= set(ids)),
            parameters=ids,
            shapes=tuple(parameter.shape for parameter in parameters),
        )

    @cached_property
    def size(self) -> int:
        """Number of entries P of the parameters that the loss reaches."""
        return sum(factor.root.size for factor in self.factors)

    @cached_property
    def reached(self) -> tuple[bool, ...]:
        """For each parameter, whether the loss reaches it."""
        return tuple(key in self.capture.reached for key in self.parameters)

    @cached_property
    def roots(self) -> tuple[Columns, ...]:
        """Columns of V, which belong to the samples of the GGN, for each factor."""
        return self.roots_of(self.capture.ggn_samples)

    def roots_of(self, samples: Sequence[int]) -> tuple[Columns, ...]:
        """Return the columns of the samples at the given indices, for each factor."""
        everything = self.capture.covers_all(samples)
        return tuple(factor.root if everything else factor.root.select(samples) for factor in self.factors)

    @cached_property
    def gram(self) -> Tensor:
        """The Gram matrix VᵀV, `[R, R]`, in loss/param²."""
        return self._gram_and_projected_gradient[0]

    @property
    def unit(self) -> float:
        """The number by which the gradient is divided in products with V or with itself, see `Capture.unit`."""
        return self.capture.unit

    @property
    def projected_gradient(self) -> Tensor:
        """Vᵀg / unit for the gradient g of the loss, `[R]`."""
        if (coefficients := self.gradient_coefficients) is not None:
            return self.gram @ (coefficients / self.unit)
        products = self._gram_and_projected_gradient[1]
        assert products is not None
        return products

    @property
    def gradient_coefficients(self) -> Tensor | None:
        """Coefficients c of the gradient of the loss in V, `g = V c`, `[R]`; `None` if g is not in the span of V."""
        return None if self.capture.is_gradient_given else self._captured_coefficients

    @cached_property
    def _captured_coefficients(self) -> Tensor | None:
        """Coefficients of the gradient that the samples have, even if another gradient is given."""
        capture = self.capture
        if capture.coefficients is None:
            return None
        share = 1 / capture.grad_count if capture.reduction == "mean" else 1.0
        if capture.covers_all(capture.grad_samples) and capture.covers_all(capture.ggn_samples):
            return capture.coefficients.reshape(-1) * share
        if not set(capture.grad_samples) <= set(capture.ggn_samples):
            return None
        coefficients = torch.zeros_like(capture.coefficients)
        coefficients[list(capture.grad_samples)] = capture.coefficients[list(capture.grad_samples)] * share
        return coefficients[list(capture.ggn_samples)].reshape(-1)

    @cached_property
    def _gram_and_projected_gradient(self) -> tuple[Tensor, Tensor | None]:
        gram, roots = self.capture.zeros(self.capture.columns, self.capture.columns), self.roots
        products = None if self.gradient_coefficients is not None else self.capture.zeros(self.capture.columns)
        for index, root in enumerate(roots):
            root.accumulate(gram, None if products is None else self.factor_gradient(index, self.unit), products)
        return gram if all(root.fills_gram for root in roots) else mirror(gram), products

    def factor_gradient(self, index: int, unit: float = 1.0) -> ParameterVectors:
        """Return the gradient of the loss with respect to the parameters of a factor, as one vector (K = 1).

        Args:
            index: Number of the factor.
            unit: Number by which the gradient is divided.
        """
        factor, capture = self.factors[index], self.capture
        if all(key in capture.gradients for key in factor.parameters):
            found = [capture.gradients[key][None] for key in factor.parameters]
            return tuple(found if unit == 1 else torch._foreach_div(found, unit))
        share = (1 / capture.grad_count if capture.reduction == "mean" else 1.0) / unit
        if factor.gradient is not None:
            return factor.gradient.combine(capture.zeros(capture.grad_count, 1) + share * capture.gradient_scale)
        assert capture.coefficients is not None
        weights = torch.zeros_like(capture.coefficients)
        weights[list(capture.grad_samples)] = capture.coefficients[list(capture.grad_samples)] * share
        return factor.root.combine(weights.reshape(-1, 1))

    @cached_property
    def gradient(self) -> Tensor:
        """Gradient of the loss, `[P]`, with its entries in the order of formed columns."""
        return self._flat_gradient(1.0)

    def _flat_gradient(self, unit: float) -> Tensor:
        parts = [root.layout.join(self.factor_gradient(index, unit))[0] for index, root in enumerate(self.roots)]
        return torch.cat(parts or [self.capture.zeros(0)])

    def gradient_in_parameters(self) -> tuple[Tensor, ...]:
        """Return the gradient of the loss over the unit, in the shapes of the group's parameters."""
        gradient = self.gradient if self.unit == 1 else self._flat_gradient(self.unit)
        return tuple(vectors[0] for vectors in self.unflatten(gradient[None]))

    @property
    def sample_gradient_square(self) -> Tensor:
        """Mean over the samples of ‖g_n / unit‖², a scalar, with g_n scaled so that their mean is g."""
        capture = self.capture
        count, per_sample = capture.grad_count, capture.columns_per_sample
        if (coefficients := self._captured_coefficients) is not None:
            if self.unit != 1:
                coefficients = coefficients / self.unit
            if per_sample == 1 and not self.is_ggn_smaller:
                return (self.column_squares @ coefficients.square()) * count
            parts = coefficients.reshape(-1, per_sample)
            if self.is_ggn_smaller:
                columns = self.formed()
                own = torch.einsum("nc,ncp->np", parts, columns.reshape(*parts.shape, -1))
                norm: Tensor = torch.linalg.vector_norm(own, dtype=torch.float64)
                return norm.square() * count
            blocks = self.gram.reshape(*parts.shape, *parts.shape).diagonal(dim1=0, dim2=2)  # [C, C, N]
            return torch.einsum("nc,cdn,nd->", parts, blocks, parts) * count
        gram = capture.zeros(count, count)
        for factor in self.factors:
            self._sample_gradients(factor).accumulate(gram, None, None)
        scale = 1.0 if capture.reduction == "mean" else float(count)
        return gram.diagonal().sum() * (scale**2 / count)

    def _sample_gradients(self, factor: Factor) -> Columns:
        """Return the gradient of each sample over the unit with respect to a factor's parameters, one column each."""
        capture = self.capture
        if factor.gradient is not None:
            scale = capture.zeros(capture.grad_count, 1) + capture.gradient_scale / self.unit
            return factor.gradient.contracted(scale)
        assert capture.coefficients is not None
        chosen = list(capture.grad_samples)
        return factor.root.select(chosen).contracted(capture.coefficients[chosen] / self.unit)

    @cached_property
    def is_ggn_smaller(self) -> bool:
        """True if the group has fewer parameters than columns, so that the GGN is smaller than the Gram matrix."""
        return self.size < self.capture.columns

    @property
    def ggn(self) -> Tensor:
        """The GGN V Vᵀ, `[P, P]`. If it is small, it is in float64, so that the product adds no rounding errors."""
        return self.ggn_and_gradient[0]

    @cached_property
    def ggn_and_gradient(self) -> tuple[Tensor, Tensor]:
        """The GGN, and the gradient in its dtype; if the gradient is in the span of V, it is computed as V c."""
        columns, coefficients = self.ggn_columns, self.gradient_coefficients
        gradient = self.gradient if coefficients is None else columns.T @ coefficients.to(columns.dtype)
        return columns.T @ columns, gradient.to(columns.dtype)

    @property
    def ggn_columns(self) -> Tensor:
        """V itself, transposed, `[R, P]`, in the dtype of the GGN; formed anew at each access."""
        columns = self.formed()
        return columns.double() if self.size <= EXACT else columns

    @property
    def precision(self) -> float:
        """Machine precision of the factors."""
        return torch.finfo(self.capture.dtype).eps

    @cached_property
    def trace(self) -> Tensor:
        """Trace of the GGN, which is also that of the Gram matrix, in loss/param²."""
        return (self.ggn.diagonal() if self.is_ggn_smaller else self.column_squares).sum(dtype=torch.float64)

    @cached_property
    def column_squares(self) -> Tensor:
        """Squared norms of the columns of V, the diagonal of the Gram matrix, `[R]`."""
        return self.gram.diagonal()

    def formed(self) -> Tensor:
        """Return V itself, transposed, `[R, P]`."""
        return torch.cat([root.formed() for root in self.roots] or [self.capture.zeros(self.capture.columns, 0)], dim=1)

    def combine(self, weights: Tensor) -> tuple[Tensor, ...]:
        """Return V · weights for weights `[R, K]`.

        Returns:
            Vectors `[K, *shape]` for each parameter; zeros for a parameter that the loss does not reach.
        """
        return self._in_parameters([root.combine(weights) for root in self.roots], (weights.shape[1],))

    def unflatten(self, columns: Tensor) -> tuple[Tensor, ...]:
        """Return vectors `[K, P]`, in the order of formed columns, as `[K, *shape]` for each parameter."""
        return self._in_parameters(self._parts(columns), (len(columns),))

    def combine_coordinates(self, coordinates: Tensor) -> tuple[Tensor, ...]:
        """Return the vector with coordinates `[R]` in the columns of V, or `[P]` if the GGN is the smaller matrix."""
        if self.is_ggn_smaller:
            return tuple(vectors[0] for vectors in self.unflatten(coordinates[None]))
        return self._in_parameters([root.combine_one(coordinates) for root in self.roots])

    def zeros(self, count: int) -> tuple[Tensor, ...]:
        """Return zeros, `[count, *shape]` for each parameter."""
        return tuple(self.capture.zeros(count, *shape) for shape in self.shapes)

    def _parts(self, columns: Tensor) -> list[ParameterVectors]:
        sizes = [root.size for root in self.roots]
        return [
            root.layout.split(part) for root, part in zip(self.roots, torch.split(columns, sizes, dim=1), strict=True)
        ]

    def _in_parameters(self, parts: Sequence[ParameterVectors], leading: tuple[int, ...] = ()) -> tuple[Tensor, ...]:
        found: dict[int, Tensor] = {}
        for factor, vectors in zip(self.factors, parts, strict=True):
            found.update(zip(factor.parameters, vectors, strict=True))
        return tuple(
            found[key].contiguous() if key in found else self.capture.zeros(*leading, *shape)
            for key, shape in zip(self.parameters, self.shapes, strict=True)
        )

    def project(self, vectors: Sequence[Tensor], samples: Sequence[int] | None = None) -> Tensor:
        """Return Vᵀ · vectors, `[R, J]`, for vectors `[J, *shape]` of each parameter.

        Args:
            vectors: A tensor for each parameter of the group.
            samples: Indices of the samples whose columns replace those of V; by default the columns of V.
        """
        samples = self.capture.ggn_samples if samples is None else samples
        given = dict(zip(self.parameters, vectors, strict=True))
        total = self.capture.zeros(self.capture.columns_per_sample * len(samples), len(vectors[0]))
        for factor, root in zip(self.factors, self.roots_of(samples), strict=True):
            total += root.project(tuple(given[key] for key in factor.parameters))
        return total

    def project_one(self, vector: Sequence[Tensor]) -> Tensor:
        """Return Vᵀ · vector, `[R]`, for one vector in the shapes of the group's parameters."""
        given = dict(zip(self.parameters, vector, strict=True))
        pairs = zip(self.factors, self.roots, strict=True)
        parts = [root.project_one(tuple(given[key] for key in factor.parameters)) for factor, root in pairs]
        return reduce(torch.add, parts) if parts else self.capture.zeros(self.capture.columns)

    def flatten(self, vectors: Sequence[Tensor]) -> Tensor:
        """Return vectors `[J, *shape]` of each parameter as `[J, P]`, in the order of formed columns."""
        given = dict(zip(self.parameters, vectors, strict=True))
        parts = [
            root.layout.join(tuple(given[key] for key in factor.parameters))
            for factor, root in zip(self.factors, self.roots, strict=True)
        ]
        return torch.cat(parts or [self.capture.zeros(len(vectors[0]), 0)], dim=1)

    @property
    def lambda_scale(self) -> float:
        """Factor that turns `‖Wᵀv‖²`, with the columns W of the samples of lambdas, into the curvature along v."""
        capture = self.capture
        return len(capture.ggn_samples) / len(capture.lambda_samples) if capture.reduction == "mean" else 1.0

    def gradient_columns(self) -> dict[tuple[int, ...], Columns]:
        """Return the per-sample gradients by the `id`s of their parameters; empty if they are in the span of V."""
        return {factor.parameters: factor.gradient for factor in self.factors if factor.gradient is not None}

    def root_columns(self, samples: Sequence[int]) -> dict[tuple[int, ...], Columns]:
        """Return the columns of the samples at the given indices, by the `id`s of their parameters."""
        return dict(zip((factor.parameters for factor in self.factors), self.roots_of(samples), strict=True))

    def project_combined_onto(self, columns: Mapping[tuple[int, ...], Columns], weights: Tensor) -> Tensor:
        """Return Wᵀ V · weights, `[count, K]`, for other columns W of the same parameters.

        The product is computed in the cheaper of the two orders.

        Args:
            columns: Columns W by the `id`s of their parameters.
            weights: Weights `[R, K]`.
        """
        total = self.capture.zeros(max((one.count for one in columns.values()), default=0), weights.shape[1])
        few = 4 * weights.shape[1] <= weights.shape[0] or self.unit != 1  # WᵀV may be out of range for gradients W
        for factor, root in zip(self.factors, self.roots, strict=True):
            if (other := columns.get(factor.parameters)) is not None:
                total += other.project(root.combine(weights)) if few else other.inner(root) @ weights
        return total

    def project_onto(self, columns: Mapping[tuple[int, ...], Columns], vectors: Tensor) -> Tensor:
        """Return Wᵀ · vectors, `[count, K]`, for other columns W of the same parameters and vectors `[K, P]`."""
        total = self.capture.zeros(max((one.count for one in columns.values()), default=0), len(vectors))
        for factor, part in zip(self.factors, self._parts(vectors), strict=True):
            if (other := columns.get(factor.parameters)) is not None:
                total += other.project(part)
        return total

    def projected_gradient_of(self, data: GroupCurvature) -> Tensor:
        """Return Vᵀg over the unit of the data, `[R]`, for the gradient g of the loss on other data."""
        if data is self:
            return self.projected_gradient
        total = self.capture.zeros(self.capture.columns)
        places = {factor.parameters: index for index, factor in enumerate(data.factors)}
        for factor, root in zip(self.factors, self.roots, strict=True):
            if factor.parameters in places:
                total += root.project(data.factor_gradient(places[factor.parameters], data.unit))[:, 0]
        return total

"""Kinds of curvature: the columns that stand for the loss Hessian of each sample at the model output.

A root of sample n is a matrix S_n with one row for each output. Its outer product `S_n S_nᵀ` is the loss Hessian H_n
(exact), has H_n as its expectation (Monte-Carlo), or agrees with H_n along the gradient of the sample (aligned).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from torch import Generator, Tensor

from ddn_core.engine.losses.term import LossTerm
from ddn_core.engine.sample_axis import SampleAxis
from ddn_core.errors import ArgumentError

CurvatureKind = Literal["ggn", "ggn-mc", "ggn-aligned"]
"""Names of the kinds: the exact GGN, its Monte-Carlo estimate, and one column a sample along its gradient."""


class Root(ABC):
    """A kind of curvature.

    Attributes:
        spans_gradient: True if the gradient of a sample is a combination of its columns.
        follows_gradient: True if the only column of a sample is its gradient times a number.
    """

    spans_gradient: ClassVar[bool] = True
    follows_gradient: ClassVar[bool] = False

    def factors(self, term: LossTerm, samples: SampleAxis) -> Tensor:
        """Return the number that turns the gradient of each sample into its column, `[N]`, if `follows_gradient`."""
        raise NotImplementedError("the columns are not multiples of the gradients")

    def inverse(self, factors: Tensor) -> Tensor:
        """Return the coefficients of the gradient in the columns, `[N, 1]`, if `follows_gradient`.

        Args:
            factors: What `factors` returns, `[N]`.
        """
        raise NotImplementedError("the columns are not multiples of the gradients")

    @abstractmethod
    def per_sample(self, outputs: int) -> int:
        """Return the number of columns for each sample of a model with some number of outputs."""

    @abstractmethod
    def columns(self, term: LossTerm, samples: SampleAxis, generator: Generator | None) -> Tensor:
        """Return the columns at the model output, `[A, *output]`."""

    @abstractmethod
    def coefficients(self, term: LossTerm, samples: SampleAxis) -> Tensor:
        """Return the coefficients of the gradient in the columns, `[N, A]`."""


@dataclass(frozen=True)
class ExactRoot(Root):
    """A column for each output: the exact GGN."""

    def per_sample(self, outputs: int) -> int:
        """Return the number of outputs."""
        return outputs

    def columns(self, term: LossTerm, samples: SampleAxis, generator: Generator | None) -> Tensor:
        """Return the columns at the model output, `[C, *output]`."""
        return term.exact(samples)

    def coefficients(self, term: LossTerm, samples: SampleAxis) -> Tensor:
        """Return the coefficients of the gradient in the columns, `[N, C]`."""
        return term.coefficients(samples)


MOST_SAMPLES = 10**6
"""Largest number of Monte-Carlo samples for each sample of the data."""


@dataclass(frozen=True)
class MonteCarloRoot(Root):
    """A column for each target that is drawn from the likelihood of the loss.

    Attributes:
        count: Number of drawn targets for each sample.
    """

    spans_gradient = False

    count: int = 1

    def __post_init__(self) -> None:
        """Check the number of Monte-Carlo samples.

        Raises:
            ArgumentError: It is not an integer from 1 to a million.
        """
        if isinstance(self.count, bool) or not isinstance(self.count, int) or self.count < 1:
            raise ArgumentError(
                f"the number of Monte-Carlo samples is {self.count!r}. Use 0 for the exact GGN, or 1, 2, ..."
            )
        if self.count > MOST_SAMPLES:
            raise ArgumentError(f"the number of Monte-Carlo samples is too large. Use at most {MOST_SAMPLES}.")

    def per_sample(self, outputs: int) -> int:
        """Return the number of drawn targets."""
        return self.count

    def columns(self, term: LossTerm, samples: SampleAxis, generator: Generator | None) -> Tensor:
        """Return the columns at the model output, `[count, *output]`."""
        return term.sampled(self.count, generator)

    def coefficients(self, term: LossTerm, samples: SampleAxis) -> Tensor:
        """Raise, since the gradient is not in the span of the columns."""
        raise NotImplementedError("the gradient is not in the span of drawn columns")


@dataclass(frozen=True)
class AlignedRoot(Root):
    """One column for each sample: its gradient r at the output, times a number, so that the curvature along r is exact.

    The outer product is `(rᵀHr / |r|⁴) r rᵀ`. It agrees with H along r, and is H itself where H has rank one and r is
    in its span: with one output, or two classes. The empirical Fisher has 1 in place of `rᵀHr / |r|⁴`, and its improved
    form `1 / |r|²` (Wu, Yu, Zhang, Woodland 2024, arXiv 2406.06420).
    """

    follows_gradient = True

    def per_sample(self, outputs: int) -> int:
        """Return 1."""
        return 1

    def columns(self, term: LossTerm, samples: SampleAxis, generator: Generator | None) -> Tensor:
        """Return the columns at the model output, `[1, *output]`."""
        slope = term.whole_slope
        return (slope * samples.spread(self.factors(term, samples), slope.shape))[None]

    def coefficients(self, term: LossTerm, samples: SampleAxis) -> Tensor:
        """Return the coefficients of the gradient in the columns, `[N, 1]`."""
        return self.inverse(self.factors(term, samples))

    def inverse(self, factors: Tensor) -> Tensor:
        """Return the coefficients of the gradient in the columns, `[N, 1]`, for known factors."""
        return factors.reciprocal().masked_fill_(factors == 0, 0.0)[:, None]

    def factors(self, term: LossTerm, samples: SampleAxis) -> Tensor:
        """Return the factor on the gradient of each sample, `√(rᵀHr) / |r|²`, `[N]`; 0 where the gradient is zero.

        Where a mistake is so confident that the inverse would overflow, the factor has its smallest value.
        """
        slope = term.whole_slope.double()  # squares of small numbers underflow in float32
        squares, curvatures = samples.sums(slope.square()), samples.sums(term.curvature_along(slope))
        found = (curvatures.sqrt() / squares).clamp(min=1 / term.largest_coefficient)
        return found.masked_fill_(squares == 0, 0.0).to(term.dtype)


def root_of(mc_samples: int, kind: CurvatureKind | None = None) -> Root:
    """Return the root of a kind of curvature.

    Args:
        mc_samples: Number of Monte-Carlo samples; 0 for none.
        kind: Kind of curvature; by default `"ggn-mc"` with Monte-Carlo samples, `"ggn"` without.

    Raises:
        ArgumentError: The number is not an integer from 0, or does not fit the kind, or the kind is unknown.
    """
    is_drawn = isinstance(mc_samples, bool) or mc_samples != 0
    if kind is None or kind == "ggn-mc":
        return MonteCarloRoot(mc_samples if is_drawn else 1) if is_drawn or kind else ExactRoot()
    if kind not in _ROOTS:
        raise ArgumentError(f"kind is {kind!r}. Use one of {', '.join(map(repr, get_args(CurvatureKind)))}.")
    if is_drawn:
        raise ArgumentError(f"kind {kind!r} draws no Monte-Carlo samples, but their number is {mc_samples!r}. Use 0.")
    return _ROOTS[kind]()


_ROOTS: dict[str, type[ExactRoot] | type[AlignedRoot]] = {"ggn": ExactRoot, "ggn-aligned": AlignedRoot}

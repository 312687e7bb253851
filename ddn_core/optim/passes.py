"""The curvature passes between two steps: one, several micro-batches, or one for directions and one for derivatives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, get_args

from torch import Tensor

from ddn_core.config import CurvatureConfig
from ddn_core.engine import Capture, CurvatureCapture, GroupMemo, WantedParameter, concatenate
from ddn_core.errors import ArgumentError, CurvatureError
from ddn_core.generators import DeviceGenerators

Purpose = Literal["all", "directions", "derivatives"]
"""Purpose of a curvature pass: the whole step, its directions, or the derivatives along them."""


@dataclass(frozen=True, eq=False)
class StepCaptures:
    """Captures that a step is computed from.

    Attributes:
        directions: Capture that gives the directions.
        derivatives: Capture that gives the derivatives along them; `None` if it is the same.
    """

    directions: Capture
    derivatives: Capture | None
    _memos: dict[int, GroupMemo] = field(default_factory=dict)

    @property
    def has_other_curvatures(self) -> bool:
        """True if the curvatures are those of other samples than the directions, so that they are no eigenvalues."""
        one = self.directions
        return self.derivatives is not None or tuple(one.lambda_samples) != tuple(one.ggn_samples)

    def memo_of(self, group: int, parameters: Sequence[Tensor]) -> GroupMemo:
        """Return the results for a group that all tries of the step share."""
        if group not in self._memos:
            self._memos[group] = GroupMemo.of(self.directions, parameters)
        return self._memos[group]

    @property
    def loss(self) -> float:
        """Loss of the batch that the gradient belongs to."""
        return (self.derivatives or self.directions).loss


class CurvaturePasses:
    """Record of the backward passes since the last step."""

    def __init__(self) -> None:
        self._directions: list[Capture] = []
        self._derivatives: list[Capture] = []
        self._open: list[Capture] | None = None
        self._done = False
        self._failed: set[Purpose] = set()

    def extension(
        self,
        wanted: Callable[[], Mapping[int, WantedParameter]],
        settings: CurvatureConfig,
        generators: DeviceGenerators,
    ) -> CurvatureCapture:
        """Return the BackPACK extension that delivers its captures to this record.

        Args:
            wanted: Returns the parameters whose factors are wanted, by `id`.
            settings: Settings of the curvature.
            generators: Random generators of the Monte-Carlo samples.
        """
        return CurvatureCapture(
            wanted=wanted,
            begin=self.begin,
            deliver=self.receive,
            subsampling_grad=settings.subsampling_grad,
            subsampling_ggn=settings.subsampling_ggn,
            subsampling_lambdas=settings.subsampling_lambdas,
            mc_samples=settings.sample_count,
            generator=generators,
            memory_budget=settings.memory_budget,
        )

    @contextmanager
    def block(self, purpose: Purpose, accumulate: bool) -> Iterator[None]:
        """Return a context for one backward pass.

        Args:
            purpose: `"all"` for the whole step, `"directions"` or `"derivatives"` for one half of it.
            accumulate: Whether the pass is a further micro-batch, rather than a replacement of the last pass.

        Raises:
            ArgumentError: The purpose is unknown.
        """
        if purpose not in get_args(Purpose):
            raise ArgumentError(f"purpose is {purpose!r}. Use one of {', '.join(map(repr, get_args(Purpose)))}.")
        self._open, self._done = (self._derivatives if purpose == "derivatives" else self._directions), False
        if purpose == "all":
            self._derivatives.clear()
        if not accumulate:
            self._open.clear()
            self._failed -= {purpose} if purpose != "all" else {"all", "directions", "derivatives"}
        try:
            yield
        except BaseException:
            self._open.clear()  # the gradients include those of the failed pass, which has no curvature
            raise
        finally:
            self._open = None

    def begin(self) -> None:
        """Record that a backward pass begins.

        Raises:
            CurvatureError: It is the second pass in its block.
        """
        if self._done:
            raise CurvatureError(
                "a second backward pass in one `with optimizer.curvature():`. Its curvature would replace the first's, "
                "while its gradient adds up. Use a block for each: with a step in between, or, for micro-batches, "
                "`optimizer.curvature(accumulate=True)`."
            )

    def receive(self, capture: Capture) -> None:
        """Record the capture of a backward pass."""
        assert self._open is not None
        self._open.append(capture)
        self._done = True

    def result(self) -> StepCaptures:
        """Return the captures that the next step is computed from.

        Raises:
            CurvatureError: There was no pass, or none for the directions, or the micro-batches do not belong together.
        """
        if not self._directions:
            missing = " for the directions" if self._derivatives else ""
            raise CurvatureError(
                f"step() needs a curvature pass{missing} since the last step. Call loss.backward() inside "
                "`with optimizer.curvature():`, with model and loss function extended by backpack.extend."
            )
        return StepCaptures(
            concatenate(self._directions), concatenate(self._derivatives) if self._derivatives else None
        )

    def clear(self) -> None:
        """Forget all passes, once the step has been made."""
        self._directions.clear()
        self._derivatives.clear()
        self._failed.clear()

    def fail(self, purpose: Purpose) -> None:
        """Record that a pass was aborted, so that the next step cannot be made."""
        self._failed.add(purpose)

    @property
    def failed(self) -> bool:
        """True if a pass was aborted and no other pass has replaced it."""
        return bool(self._failed)

    @property
    def is_empty(self) -> bool:
        """True if there was no pass since the last step."""
        return not (self._directions or self._derivatives or self.failed)

"""The curvature passes between two steps: one, several micro-batches, or two that share the work."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, get_args

from ddn_core.config import CurvatureConfig
from ddn_core.engine import Capture, CurvatureCapture, WantedParameter, concatenate
from ddn_core.errors import ArgumentError, CurvatureError
from ddn_core.generators import DeviceGenerators

Part = Literal["all", "directions", "derivatives"]


class CurvaturePasses:
    """Gathers the captures that the next step is made of."""

    def __init__(self) -> None:
        self._directions: list[Capture] = []
        self._derivatives: list[Capture] = []
        self._open: list[Capture] | None = None
        self._done = False
        self._failed: set[Part] = set()

    def extension(
        self,
        wanted: Callable[[], Mapping[int, WantedParameter]],
        settings: CurvatureConfig,
        generators: DeviceGenerators,
    ) -> CurvatureCapture:
        """Return the BackPACK extension that delivers here.

        Args:
            wanted: Gives the parameters that factors are wanted of, by `id`.
            settings: Which curvature to take.
            generators: Give the Monte-Carlo samples.
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
    def block(self, part: Part, accumulate: bool) -> Iterator[None]:
        """Return a context for one backward pass.

        Args:
            part: What the pass is for: `"all"` of a step, its `"directions"`, or its `"derivatives"` along them.
            accumulate: Whether the pass is a further micro-batch, rather than one that takes the place of the last.

        Raises:
            ArgumentError: The part is none of these.
        """
        if part not in get_args(Part):
            raise ArgumentError(f"part is {part!r}. Use one of {', '.join(map(repr, get_args(Part)))}.")
        self._open, self._done = (self._derivatives if part == "derivatives" else self._directions), False
        if part == "all":
            self._derivatives.clear()
        if not accumulate:
            self._open.clear()
            self._failed -= {part} if part != "all" else {"all", "directions", "derivatives"}
        try:
            yield
        except BaseException:
            self._open.clear()  # what the gradients hold of the pass that failed has no curvature
            raise
        finally:
            self._open = None

    def begin(self) -> None:
        """Take note that a backward pass begins.

        Raises:
            CurvatureError: It is the second one in its block.
        """
        if self._done:
            raise CurvatureError(
                "a second backward pass in one `with optimizer.curvature():`. Its curvature would replace the first's, "
                "while its gradient adds up. Use a block for each: with a step in between, or, for micro-batches, "
                "`optimizer.curvature(accumulate=True)`."
            )

    def receive(self, capture: Capture) -> None:
        """Take in what a backward pass gave."""
        assert self._open is not None
        self._open.append(capture)
        self._done = True

    def result(self) -> tuple[Capture, Capture | None]:
        """Return the capture that gives the directions, and the one that gives derivatives if it is another.

        Raises:
            CurvatureError: There was no pass, or none for the directions, or the micro-batches do not fit together.
        """
        if not self._directions:
            missing = " for the directions" if self._derivatives else ""
            raise CurvatureError(
                f"step() needs a curvature pass{missing} since the last step. Call loss.backward() inside "
                "`with optimizer.curvature():`, with model and loss function extended by backpack.extend."
            )
        return concatenate(self._directions), concatenate(self._derivatives) if self._derivatives else None

    def clear(self) -> None:
        """Forget all passes: the step has been made."""
        self._directions.clear()
        self._derivatives.clear()
        self._failed.clear()

    def fail(self, part: Part) -> None:
        """Take note that a pass was given up, so that the next step has to be."""
        self._failed.add(part)

    @property
    def failed(self) -> bool:
        """Whether a pass was given up that no other has replaced."""
        return bool(self._failed)

    @property
    def nothing(self) -> bool:
        """Whether there was no pass since the last step."""
        return not (self._directions or self._derivatives or self.failed)

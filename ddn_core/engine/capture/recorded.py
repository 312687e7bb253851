"""Recorded columns: hooks at the sites see the gradients of the samples in the backward pass that computes `.grad`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from ddn_core.engine.capture.assembly import Assembly
from ddn_core.engine.capture.sites import Site
from ddn_core.engine.factors import Columns


class Recording:
    """One column for each sample: its gradient, or its gradient times a number."""

    def __init__(
        self,
        assembly: Assembly,
        sites: Sequence[Site],
        dtype: torch.dtype,
        device: torch.device,
        nested: Callable[[], AbstractContextManager[Any]],
        factors: Tensor | None = None,
    ) -> None:
        """Begin without columns.

        Args:
            assembly: Collects the columns.
            sites: The sites.
            dtype: Dtype of the columns.
            device: Device of the model output.
            nested: Returns a context for passes inside the backward pass.
            factors: The numbers, `[N]`; 1 for each sample by default.
        """
        self._assembly, self._sites, self._dtype = assembly, sites, dtype
        self._device, self._nested, self._factors = device, nested, factors

    def attach(self) -> list[RemovableHandle]:
        """Record the backward pass that follows, until the handles are removed."""
        return [site.node.register_prehook(self._hook(site)) for site in self._sites]

    def finish(self) -> dict[tuple[int, ...], Columns]:
        """Return the columns by the `id`s of the parameters, after the backward pass."""
        return self._assembly.finish()

    def _hook(self, site: Site) -> Callable[[tuple[Tensor | None, ...]], None]:
        """Return a hook that adds the gradients at a site."""
        is_busy = False

        def record(gradients: tuple[Tensor | None, ...]) -> None:
            nonlocal is_busy
            if is_busy:
                return  # a node without a rule is called for the columns, which calls its hooks
            is_busy = True
            with torch.no_grad(), torch.autocast(self._device.type, enabled=False), self._nested():
                given = {}
                for edge, layout, gradient in zip(site.outputs, site.layouts, gradients, strict=True):
                    if edge is not None and gradient is not None:
                        own = gradient.detach() if gradient.requires_grad else gradient
                        if self._factors is not None and layout is not None:
                            own = own.to(self._dtype) if own.is_floating_point() else own  # it may be complex
                            own = own * layout.spread(self._factors, own.shape)
                        given[edge] = own[None]
                self._assembly.add(slice(0, 1), given.get, only=site)
            is_busy = False

        return record

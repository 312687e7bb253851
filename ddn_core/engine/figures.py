"""Figures of a parameter group that strategies may read, such as norms, each computed when first read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ddn_core.engine.gram import GroupCurvature
from ddn_core.engine.terms import TermImages
from ddn_core.errors import NonFiniteError


@dataclass(frozen=True, eq=False)
class GroupFigures:
    """Figures of a parameter group, computed from its curvature.

    Attributes:
        basis: Curvature of the batch that gives the directions.
        data: Curvature of the batch that gives the gradient.
        tensors: The parameters.
        images: Anchor of the step, as the curvature of that batch sees it; `None` without one.
    """

    basis: GroupCurvature
    data: GroupCurvature
    tensors: Sequence[Tensor]
    images: TermImages | None = None

    @property
    def sample_gradients(self) -> float:
        """Mean over the samples of the squared Euclidean norm of their gradients, loss²/param²."""
        return self._read_together[0]

    @property
    def displacement(self) -> tuple[float, float]:
        """Slope and curvature of the loss along the displacement, loss."""
        is_displaced = self.images is not None and self.images.terms.is_displacement
        return self.anchor_model if is_displaced else (0.0, 0.0)

    @property
    def anchor_model(self) -> tuple[float, float]:
        """Slope and curvature of the loss along the anchor: the displacement, or the remembered step; zero without."""
        if self.images is None or self.images.terms.anchor is None:
            return 0.0, 0.0
        return self._read_together[1], self._read_together[2]

    @cached_property
    def _read_together(self) -> tuple[float, float, float]:
        """Mean square of the gradients, slope and curvature, read at once, since each read waits for the device."""
        with torch.no_grad():
            squares, unit = self.data.sample_gradient_square, self.data.unit
            if self.images is None or self.images.terms.anchor is None:
                return _finite(float(squares) * unit**2), 0.0, 0.0
            slope, curvature = self.images.anchor_model()
            found = torch.stack([squares, slope, curvature]).tolist()
            return _finite(found[0] * unit**2), found[1], found[2]

    @cached_property
    def curvature(self) -> float:
        """Mean of the eigenvalues, zeros included, loss/param²."""
        with torch.no_grad():
            return float(self.basis.trace) / max(min(self.basis.size, self.basis.capture.columns), 1)

    @cached_property
    def gradient(self) -> float:
        """Euclidean norm of the gradient of the loss, loss/param."""
        with torch.no_grad():
            return float(torch.linalg.vector_norm(self.data.gradient, dtype=torch.float64))

    @cached_property
    def parameters(self) -> float:
        """Euclidean norm of the parameters, param."""
        with torch.no_grad():
            norms = [torch.linalg.vector_norm(tensor.detach(), dtype=torch.float64) for tensor in self.tensors]
            return float(torch.linalg.vector_norm(torch.stack(norms)))


def _finite(square: float) -> float:
    """Return the mean square of the gradients of the samples.

    Raises:
        NonFiniteError: It is NaN or infinite.
    """
    if not math.isfinite(square):
        raise NonFiniteError("the gradients of the samples have NaN or infinite entries, or their squares overflow.")
    return square

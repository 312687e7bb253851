"""Keep every direction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddn_core.api import Criterion

if TYPE_CHECKING:
    from ddn_core.api import Directions


class All(Criterion, kind="all"):
    """Keep every numerically nonzero direction.

    The engine decides which eigenvalues are numerically zero, from the largest eigenvalue, the number of columns and
    the dtype.
    """

    def keeps_all(self) -> bool:
        """Return True."""
        return True

    def select(self, directions: Directions) -> range:
        """Return all indices."""
        return range(len(directions))

"""Records of failed measurements."""

from __future__ import annotations

from typing import Any

NOT_INSTALLED = "not installed"
OUT_OF_MEMORY = "out of memory"
OVER_TIME = "over the time limit"
FAILED = "failed"
SKIPPED = "skipped"


def failure(reason: str, detail: str = "") -> dict[str, Any]:
    """Return a failure as plain data.

    Args:
        reason: One of the constants above.
        detail: Message with the cause.
    """
    return {"failure": reason, "detail": detail}


def failure_of(error: Exception) -> dict[str, Any]:
    """Return the failure that describes an exception."""
    if isinstance(error, ModuleNotFoundError):
        return failure(NOT_INSTALLED, str(error))
    if isinstance(error, MemoryError) or "memory" in str(error).lower():
        return failure(OUT_OF_MEMORY, str(error))
    return failure(FAILED, f"{type(error).__name__}: {error}")


def failed(measurement: dict[str, Any] | None) -> bool:
    """Return whether a measurement is missing or has failed."""
    return measurement is None or "failure" in measurement

"""Everything `ddn` raises on purpose: one root, and a child for each kind of cause.

    DdnError
    ├── ConfigError        a config file, table or override is wrong
    ├── PluginError        a plugin cannot be found, imported or registered
    ├── StrategyError      a criterion or damping raised, or returned the wrong thing
    ├── ArgumentError      a call was given a value that it cannot take
    ├── CurvatureError     a backward pass could not give the curvature
    │   ├── MemoryBudgetError  it would need more memory than it may take
    │   └── NonFiniteError     loss or step has a NaN or an infinity in it
    └── NoResultError      a result was asked for that was not computed

Each child is also the built-in exception that a caller would expect, so that `except ValueError` works.
"""

from __future__ import annotations


class DdnError(Exception):
    """Root of all errors that `ddn` raises on purpose."""


class ConfigError(DdnError, ValueError):
    """A config file, table or override is wrong; the message has the path to each place."""


class PluginError(DdnError, LookupError):
    """A plugin or a kind cannot be found, imported or registered."""


class StrategyError(DdnError, ValueError):
    """A criterion or a damping raised, or returned something that breaks its contract."""


class ArgumentError(DdnError, ValueError):
    """A call was given a value that it cannot take."""


class CurvatureError(DdnError, RuntimeError):
    """A backward pass could not give the curvature: model, loss or layer is at fault."""


class MemoryBudgetError(CurvatureError):
    """Curvature would need more memory than its budget; nothing has been allocated."""


class NonFiniteError(CurvatureError):
    """The loss, the curvature or the step has a NaN or an infinity in it; no parameter has been touched."""


class NoResultError(DdnError, KeyError):
    """A result was asked for that no backward pass has computed."""

    def __str__(self) -> str:
        """Return the message as written (a `KeyError` would put it in quotes)."""
        return str(self.args[0]) if self.args else ""

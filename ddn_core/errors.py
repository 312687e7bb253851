"""The exceptions that `ddn` raises: one root, and a child for each kind of cause.

    DdnError
    ├── ConfigError        a config file, table or override is wrong
    ├── PluginError        a plugin cannot be found, imported or registered
    │   ├── PluginLoadError    an installed plugin cannot be imported or registered
    │   └── UnknownKindError   the plugin can be loaded, but has no such kind
    ├── StrategyError      a criterion or a damping raised an exception, or returned an invalid value
    ├── ArgumentError      an argument of a call is invalid
    ├── CurvatureError     curvature could not be computed in a backward pass
    │   ├── MemoryBudgetError  curvature would need more memory than its budget
    │   └── NonFiniteError     the loss, the curvature or the step contains a NaN or an infinity
    └── NoResultError      no backward pass has computed the requested result

Each child also inherits from the built-in exception that fits its cause, so that `except ValueError` works.

`DivergenceWarning` is the warning of a training that diverges, a `UserWarning`.
"""

from __future__ import annotations

import os


class DdnError(Exception):
    """Root of the exceptions of `ddn`."""


class ConfigError(DdnError, ValueError):
    """A config file, table or override is wrong; the message gives the path to each mistake."""


class PluginError(DdnError, LookupError):
    """A plugin or a kind cannot be found, imported or registered."""


class PluginLoadError(PluginError):
    """An installed plugin cannot be imported or registered.

    Attributes:
        plugin: The plugin, such as `plugin 'acme' (ddn-acme 1.2)`: the subject of the message.
        reason: The rest of the message, such as `failed to import: ...`.
    """

    def __init__(self, plugin: str, reason: str) -> None:
        """Create the error `<plugin> <reason>`."""
        super().__init__(plugin, reason)
        self.plugin, self.reason = plugin, reason

    def __str__(self) -> str:
        """Return the message."""
        return f"{self.plugin} {self.reason}"


class UnknownKindError(PluginError):
    """A plugin was loaded, but has no strategy or problem of the requested kind."""


class StrategyError(DdnError, ValueError):
    """A criterion or a damping raised an exception, or returned a value that breaks its contract."""


class ArgumentError(DdnError, ValueError):
    """An argument of a call is invalid."""


class CurvatureError(DdnError, RuntimeError):
    """Curvature could not be computed in a backward pass, because of the model or the loss."""


class MemoryBudgetError(CurvatureError):
    """Curvature would need more memory than its budget; nothing has been allocated yet."""


class NonFiniteError(CurvatureError):
    """The loss, the curvature or the step contains a NaN or an infinity; no parameter has changed."""


class NoResultError(DdnError, KeyError):
    """No backward pass has computed the requested result."""

    def __str__(self) -> str:
        """Return the message without the quotes that `KeyError` adds."""
        return str(self.args[0]) if self.args else ""


class DivergenceWarning(UserWarning):
    """A training diverges: its losses are not finite, or have grown past a multiple of the first ones."""


def system_error(error: OSError) -> str:
    """Return an error of the operating system in words, after the path that it concerns."""
    reason = error.strerror or str(error) or type(error).__name__
    path = error.filename
    return f"{os.fsdecode(path)}: {reason}" if isinstance(path, str | bytes) else reason


def unwritable(stream: str, error: OSError) -> str:
    """Return the message that a stream, such as standard output, cannot be written."""
    return f"{stream} cannot be written: {error.strerror or error}. Send it elsewhere."

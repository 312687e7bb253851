"""Reads a TOML or JSON file as a `Config`, with errors that give the path into the file."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ddn_core.config.overrides import apply_overrides
from ddn_core.config.plugins import PluginsConfig
from ddn_core.config.schema import Config
from ddn_core.errors import ConfigError
from ddn_core.plugins.messages import error_lines
from ddn_core.plugins.reference import REGISTRY
from ddn_core.plugins.registry import Registry, installed_registry
from ddn_core.plugins.sizes import depth_faults, integer_faults


def load_config(path: str | Path, overrides: Sequence[str] = (), registry: Registry | None = None) -> Config:
    """Return the config in a file.

    Args:
        path: Path of a file that ends in `.toml` or `.json`.
        overrides: Assignments `path=value`, such as `groups.0.damping.value=1e-3`, applied in order.
        registry: Registry in which kinds are looked up; by default that of the installed plugins.

    Raises:
        ConfigError: The file cannot be read or parsed, or is not a valid config; the message has a line for each
            mistake, with its path.
    """
    path = Path(path)
    table = _read(path)
    _check_depth(table, path.name)
    return parse_config(apply_overrides(table, overrides), path.name, registry)


def parse_config(table: Mapping[str, Any], source: str = "config", registry: Registry | None = None) -> Config:
    """Return the config that a table describes.

    Args:
        table: Contents of a TOML or JSON file.
        source: Name of the file or other source, for messages.
        registry: Registry in which kinds are looked up; by default that of the installed plugins.

    Raises:
        ConfigError: The table is not a valid config.
    """
    if not isinstance(table, Mapping):
        raise ConfigError(f"{source}: a config must be a table, not a {type(table).__name__}")
    _check_depth(table, source)
    registry = registry or installed_registry()
    try:
        allowed = PluginsConfig.model_validate({"allow": table["plugins"]["allow"]})
        registry = registry.restricted(allowed.permission(source))
    except (KeyError, TypeError, ValidationError):
        pass  # no restriction, or an invalid one, which the validation below reports
    try:
        config = Config.model_validate(dict(table), context={REGISTRY: registry})
    except RecursionError as error:
        raise ConfigError(f"{source}: tables are nested too deeply. Use fewer levels.") from error
    except ValidationError as error:
        raise config_error(source, error_lines(error)) from error
    if faults := integer_faults(dict(table)):
        raise config_error(source, faults)
    return config


def _check_depth(table: Mapping[str, Any], source: str) -> None:
    """Raise a `ConfigError` if a table is nested too deeply."""
    if faults := depth_faults(dict(table)):
        raise config_error(source, faults)


def config_error(source: str, lines: Sequence[str]) -> ConfigError:
    """Return an error with a head line and an indented line for each mistake."""
    count = "1 error" if len(lines) == 1 else f"{len(lines)} errors"
    return ConfigError("\n".join([f"{source}: {count}", *(f"  {line}" for line in lines)]))


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path.name}: is not UTF-8 text: {error}. Save the file as UTF-8.") from error
    try:
        if path.suffix == ".toml":
            return tomllib.loads(text)
        if path.suffix == ".json":
            table = json.loads(text)
            if not isinstance(table, dict):
                raise ConfigError(f"{path.name}: the top level is a {type(table).__name__}; it must be a table")
            return table
    except RecursionError as error:
        raise ConfigError(f"{path.name}: tables are nested too deeply. Use fewer levels.") from error
    except ValueError as error:  # a number with thousands of digits, too
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path.name}: is not valid {path.suffix[1:].upper()}: {error}") from error
    raise ConfigError(f"{path.name}: unknown format {path.suffix!r}. Use a .toml or a .json file.")

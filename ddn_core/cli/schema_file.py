"""What `ddn schema` writes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from ddn_core.config.json_schema import config_schema
from ddn_core.errors import ArgumentError
from ddn_core.plugins.registry import Registry


def write_schema(registry: Registry, path: Path | None) -> None:
    """Print the JSON Schema of config files, or write it to a file.

    Raises:
        ArgumentError: The file cannot be written.
    """
    for record in registry.plugins():
        if record.error is not None:
            print(f"without the kinds of: {record.error}", file=sys.stderr)
    text = json.dumps(config_schema(registry), indent=2, ensure_ascii=False)
    if path is None:
        print(text)
        return
    try:
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise ArgumentError(f"--out: {path} cannot be written: {error.strerror}") from error

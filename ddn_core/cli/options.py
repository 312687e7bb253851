"""What the commands share: options, the plugins, and how errors are told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ddn_core.errors import DdnError
from ddn_core.plugins.registry import Registry

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="A .toml or .json file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Change a value, a TOML literal; may be given again."),
]


def registry_of(context: typer.Context) -> Registry:
    """Return the plugins that the command may use."""
    registry: Registry = context.obj
    return registry


def default_folder(config: Path) -> Path:
    """Return a new folder for what comes of a config."""
    return Path("runs") / f"{config.stem}-{datetime.now():%Y%m%d-%H%M%S}"


@contextmanager
def errors_told() -> Iterator[None]:
    """Print an error of ours without traceback, and end with exit status 1."""
    try:
        yield
    except DdnError as error:
        Console(stderr=True).print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error

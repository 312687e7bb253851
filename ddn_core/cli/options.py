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

# Of the commands that run many trials.
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Run trials that failed again.")]
Jobs = Annotated[
    int | None, typer.Option(min=1, help="Trials at a time; they share the cores. One a core, or one on a GPU.")
]
Timeout = Annotated[float | None, typer.Option(metavar="SECONDS", min=0, help="Stop a trial after this.")]
Metric = Annotated[
    str | None, typer.Option(metavar="NAME", help="Rank by this of the last epoch; train_loss by default.")
]
Maximize = Annotated[bool, typer.Option("--maximize", help="The largest metric is the best.")]


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

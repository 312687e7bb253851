"""Options and helpers that several commands share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ddn_core.errors import ArgumentError, DdnError
from ddn_core.plugins.registry import Registry

INTERRUPTED = 130
"""Exit status after an interrupt from the keyboard."""

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="Config, a .toml or a .json file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        help="Change a value of the config; VALUE is a TOML literal. The option can be repeated.",
    ),
]

# Options of the commands that run many trials.
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Run the failed trials again.")]
Jobs = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Number of trials that run at the same time and share the cores. "
        "By default, one for each core, or one if the config names a GPU.",
    ),
]
Timeout = Annotated[
    float | None, typer.Option(metavar="SECONDS", min=0, help="Stop a trial after this number of seconds.")
]
Metric = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Rank by this loss or metric after the last epoch. By default, train_loss."),
]
Maximize = Annotated[bool, typer.Option("--maximize", help="Rank the largest value first.")]
AllowDiverged = Annotated[
    bool,
    typer.Option(
        "--allow-diverged",
        help="Rank by the other seeds if a seed diverged. By default, what diverged for a seed is ranked last, and is "
        "never the best.",
    ),
]


def registry_of(context: typer.Context) -> Registry:
    """Return the plugins that the command may use."""
    registry: Registry = context.obj
    return registry


def default_folder(name: str) -> Path:
    """Return the path of an output folder in `runs`, with a name and the time."""
    return Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"


def check_new(path: Path) -> None:
    """Check that nothing would be overwritten in a folder, without creating it.

    Raises:
        ArgumentError: The folder is not empty.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ArgumentError(f"The output folder {path} is not empty. Name a new folder with --out.")


def new_folder(path: Path) -> Path:
    """Return an empty folder, and create it if it does not exist.

    Raises:
        ArgumentError: The folder is not empty, or cannot be written.
    """
    check_new(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArgumentError(f"The output folder {path} cannot be written: {error.strerror}.") from error
    return path


@contextmanager
def reported_errors() -> Iterator[None]:
    """Print an error of `ddn` without its traceback, and end with exit status 1."""
    try:
        yield
    except DdnError as error:
        Console(stderr=True).print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error

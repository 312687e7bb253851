"""Options and helpers that several commands share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from ddn_core.cli.status import FAILED, INTERRUPTED
from ddn_core.cli.terminal import OutputError, say_error
from ddn_core.errors import ArgumentError, DdnError, system_error
from ddn_core.files import writing
from ddn_core.plugins.registry import Registry

_MOST = 200
"""Number of characters that an error shows of a text."""

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
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def reported_errors() -> Iterator[None]:
    """Print an error of `ddn` or of the operating system as one line without its traceback, with exit status 1.

    Code of a plugin may try to end the process, too: the command has not done its work then, whatever the status says.
    """
    try:
        yield
    except OutputError as error:
        if not error.was_closed:  # the reader of a pipe ends when it has read enough
            say_error(str(error))
        raise typer.Exit(FAILED) from error
    except DdnError as error:
        say_error(str(error))
        raise typer.Exit(FAILED) from error
    except OSError as error:
        say_error(f"{system_error(error)}.")
        raise typer.Exit(FAILED) from error
    except UnicodeEncodeError as error:
        say_error(f"{error.object[:_MOST]!a} cannot be written as {error.encoding}: {error.reason}.")
        raise typer.Exit(FAILED) from error
    except SystemExit as error:
        say_error(f"The command was ended before it was done: code of a plugin called sys.exit({error.code!r}).")
        raise typer.Exit(FAILED) from error
    except KeyboardInterrupt as error:
        raise typer.Exit(INTERRUPTED) from error

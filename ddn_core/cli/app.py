"""The commands of `ddn` and their options."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ddn_core.cli.display import TrainingDisplay
from ddn_core.cli.estimate import estimate_report
from ddn_core.cli.listing import check_report, plugin_report
from ddn_core.cli.run_folder import RunFolder
from ddn_core.cli.training import Training
from ddn_core.config import load_config
from ddn_core.config.load import config_error
from ddn_core.config.provenance import resolved_config
from ddn_core.errors import DdnError
from ddn_core.plugins.registry import installed_registry

app = typer.Typer(
    help="Directionally damped Newton: train, check a config, list plugins.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="A .toml or .json file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Change a value, a TOML literal; may be given again."),
]
OutFolder = Annotated[
    Path | None, typer.Option("--out", metavar="RUN", help="Folder to write; by default runs/CONFIG-TIME.")
]


@app.command()
def train(config: ConfigPath, out: OutFolder = None, overrides: Overrides = None) -> None:
    """Train what CONFIG describes, and write a run folder."""
    with _errors_told():
        loaded = load_config(config, overrides or [])
        resolved = resolved_config(loaded)
        training = Training.of(loaded, config.name)
        folder = RunFolder.claim(out or _default_folder(config))
        with TrainingDisplay(Console(), training.total_steps) as display:
            for number, event in enumerate(training.events()):
                if number == 0:  # a run that fails at its first step leaves nothing behind
                    folder.begin(resolved)
                folder.record(event)
                display.show(event)
        folder.finish(training.checkpoint(resolved), training.history)
        display.summarize(training.history, folder.path)


@app.command()
def check(config: ConfigPath, overrides: Overrides = None) -> None:
    """Validate CONFIG without training, and say which parameters each group takes."""
    with _errors_told():
        loaded = load_config(config, overrides or [])
        report, problems = check_report(loaded, config.name)
        Console().print(report)
        if problems:
            raise config_error(config.name, problems)


@app.command("estimate")
def show_estimate(config: ConfigPath, overrides: Overrides = None) -> None:
    """Say what a training step of CONFIG will take, in operations, bytes and shares of the time, without making one."""
    with _errors_told():
        loaded = load_config(config, overrides or [])
        Console().print(estimate_report(loaded, config.name))


@app.command()
def plugins() -> None:
    """List every strategy and problem, and the plugins that failed to load."""
    with _errors_told():
        Console().print(plugin_report(installed_registry()))


def _default_folder(config: Path) -> Path:
    return Path("runs") / f"{config.stem}-{datetime.now():%Y%m%d-%H%M%S}"


@contextmanager
def _errors_told() -> Iterator[None]:
    """Print an error of ours without traceback, and end with exit status 1."""
    try:
        yield
    except DdnError as error:
        Console(stderr=True).print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error

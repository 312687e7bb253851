"""The commands of `ddn` and their options.

What a command needs is imported when it runs: the help and the errors of a config come without torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ddn_core.cli import looking
from ddn_core.cli.options import (
    ConfigPath,
    Jobs,
    Maximize,
    Metric,
    Overrides,
    RetryFailed,
    Timeout,
    default_folder,
    errors_told,
    registry_of,
)
from ddn_core.config import load_config
from ddn_core.config.load import config_error
from ddn_core.errors import ArgumentError
from ddn_core.plugins.permission import Permission
from ddn_core.plugins.registry import installed_registry
from ddn_core.runs.record import stored_config

app = typer.Typer(
    help="Directionally damped Newton: train, check a config, list plugins, write one.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
plugins = typer.Typer(help="List every strategy and problem, or show one.", invoke_without_command=True)
app.add_typer(plugins, name="plugins")

RunFolderPath = Annotated[
    Path | None, typer.Option("--out", metavar="RUN", help="Folder to write; by default runs/CONFIG-TIME.")
]


@app.callback()
def root(
    context: typer.Context,
    allowed: Annotated[
        str | None,
        typer.Option(
            "--plugins",
            metavar="NAMES",
            help="Plugins that may be loaded: names with commas between them, none, or all. "
            "The environment variable DDN_PLUGINS says the same.",
        ),
    ] = None,
) -> None:
    """Find the installed plugins; none is imported yet."""
    registry = installed_registry()
    context.obj = (
        registry if allowed is None else registry.restricted(Permission.of_text(allowed, f"--plugins={allowed}"))
    )


@app.command()
def train(
    context: typer.Context,
    config: Annotated[Path | None, typer.Argument(metavar="CONFIG", help="A .toml or .json file.")] = None,
    out: RunFolderPath = None,
    overrides: Overrides = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", metavar="RUN", help="Go on with a run that was cut off.")
    ] = None,
    record: Annotated[
        bool, typer.Option("--record", help="Record the curvature of some steps, as the table [record] says.")
    ] = False,
) -> None:
    """Train what CONFIG describes, and write a run folder; or go on with one."""
    with errors_told():
        if (config is None) == (resume is None):
            raise ArgumentError("name a CONFIG, or a run folder with --resume.")
        if resume is not None and (out is not None or overrides or record):
            raise ArgumentError("--resume goes on with the run as it was begun: leave --out, --set and --record out.")
        path = stored_config(resume) if resume is not None else config
        assert path is not None
        loaded = load_config(path, overrides or [], registry_of(context))  # before torch is imported, for quick errors
        if record and loaded.record is None:
            loaded = load_config(path, [*(overrides or []), "record={}"], registry_of(context))
        from ddn_core.cli.train import train_run

        if resume is None:
            train_run(loaded, path.name, registry_of(context), out or default_folder(path), None)
        else:
            train_run(None, path.name, registry_of(context), None, resume)


@app.command()
def sweep(
    context: typer.Context,
    config: Annotated[Path | None, typer.Argument(metavar="CONFIG", help="A .toml or .json file.")] = None,
    grid: Annotated[
        list[str] | None,
        typer.Option("--grid", metavar="PATH=V1,V2,...", help="Try these values, TOML literals; may be given again."),
    ] = None,
    ranges: Annotated[
        list[str] | None,
        typer.Option("--random", metavar="PATH=LOW..HIGH", help="Draw from a range; log:LOW..HIGH by the logarithm."),
    ] = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Draw this many combinations; all of a grid if not.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the draws; 0 by default.")] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Train each combination with this many seeds, from training.seed on.")
    ] = None,
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder to write; by default runs/sweep-CONFIG-TIME.")
    ] = None,
    resume: Annotated[Path | None, typer.Option(metavar="DIR", help="Go on with the sweep in this folder.")] = None,
    retry_failed: RetryFailed = False,
    jobs: Jobs = None,
    timeout: Timeout = None,
    metric: Metric = None,
    maximize: Maximize = False,
) -> None:
    """Train CONFIG with many values, one run for each combination, and rank them."""
    with errors_told():
        from ddn_core.cli.sweep.command import Search
        from ddn_core.cli.sweep.command import sweep as run_sweep
        from ddn_core.cli.trials.session import Running

        search = Search(tuple(overrides or ()), tuple(grid or ()), tuple(ranges or ()), trials, seed, seeds)
        running = Running(metric, maximize, jobs, timeout, retry_failed, context.find_root().params["allowed"])
        status = run_sweep(config, resume, out, search, running, registry_of(context))
    raise typer.Exit(status)


@app.command()
def check(context: typer.Context, config: ConfigPath, overrides: Overrides = None) -> None:
    """Validate CONFIG without training, and say which parameters each group takes."""
    with errors_told():
        loaded = load_config(config, overrides or [], registry_of(context))
        from ddn_core.cli.listing import check_report

        report, problems = check_report(loaded, config.name)
        Console().print(report)
        if problems:
            raise config_error(config.name, problems)


@app.command("estimate")
def show_estimate(context: typer.Context, config: ConfigPath, overrides: Overrides = None) -> None:
    """Say what a training step of CONFIG will take, in operations, bytes and shares of the time, without making one."""
    with errors_told():
        loaded = load_config(config, overrides or [], registry_of(context))
        from ddn_core.cli.estimate import estimate_report

        Console().print(estimate_report(loaded, config.name))


@app.command()
def schema(
    context: typer.Context,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="File to write.")] = None,
) -> None:
    """Print the JSON Schema of config files, with all installed plugins, for an editor."""
    with errors_told():
        from ddn_core.cli.schema_file import write_schema

        write_schema(registry_of(context), out)


@plugins.callback()
def list_plugins(
    context: typer.Context,
    broken: Annotated[bool, typer.Option("--broken", help="Tracebacks of the plugins that failed to load.")] = False,
) -> None:
    """List every strategy and problem, and the plugins that failed to load."""
    if context.invoked_subcommand is not None:
        return
    with errors_told():
        from ddn_core.cli.listing import broken_report, plugin_report

        if not broken:
            Console().print(plugin_report(registry_of(context)))
            return
        report, count = broken_report(registry_of(context))
        Console().print(report, markup=False, highlight=False, soft_wrap=True)
        if count:
            raise typer.Exit(1)


@plugins.command("show")
def show_plugin(
    context: typer.Context, kind: Annotated[str, typer.Argument(metavar="KIND", help="A kind, such as top-k.")]
) -> None:
    """Show a strategy or a problem: what it does, its fields, where it is from, an example config."""
    with errors_told():
        from ddn_core.cli.component_page import component_page

        Console().print(component_page(kind, registry_of(context)))


@app.command("new-plugin")
def new_plugin(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the plugin, the prefix of its kinds.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FOLDER", help="Folder to write; by default ddn-NAME.")
    ] = None,
) -> None:
    """Write a package with a damping, a criterion and their tests, to begin from."""
    with errors_told():
        from ddn_core.cli.new_plugin import write_plugin

        Console().print(write_plugin(name, out), markup=False, highlight=False)


looking.add_commands(app)

"""The commands of `ddn` and their options.

Each command imports the rest when it runs, so that the help and the errors of a config need no torch.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from ddn_core.cli.options import (
    AllowDiverged,
    ConfigPath,
    Jobs,
    Maximize,
    Metric,
    Overrides,
    RetryFailed,
    Timeout,
    default_folder,
    registry_of,
    reported_errors,
)
from ddn_core.cli.terminal import Terminal, lines, say
from ddn_core.config import load_config
from ddn_core.config.load import config_error
from ddn_core.errors import ArgumentError
from ddn_core.files import writing
from ddn_core.plugins.permission import Permission
from ddn_core.plugins.registry import installed_registry
from ddn_core.runs.record import stored_config

app = typer.Typer(
    help="Directionally damped Newton steps: train, compare, look at curvature, write plugins.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
plugins = typer.Typer(help="List all strategies and problems, or show one of them.", invoke_without_command=True)
app.add_typer(plugins, name="plugins")


class Data(StrEnum):
    """Data of a problem."""

    train = "train"
    test = "test"


@app.callback()
def root(
    context: typer.Context,
    allowed: Annotated[
        str | None,
        typer.Option(
            "--plugins",
            metavar="NAMES",
            help="Plugins that `ddn` may load: names separated by commas, or none, or all. "
            "The environment variable DDN_PLUGINS does the same.",
        ),
    ] = None,
) -> None:
    """Find the installed plugins, without importing them."""
    with reported_errors():
        registry = installed_registry()
        if allowed is not None:
            registry = registry.restricted(Permission.of_text(allowed, f"--plugins={allowed}"))
        context.obj = registry


@app.command()
def train(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Argument(metavar="CONFIG", help="Config of a new run, a .toml or a .json file.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="RUN", help="Run folder to write. By default, runs/CONFIG-TIME."),
    ] = None,
    overrides: Overrides = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", metavar="RUN", help="Continue the run in this folder.")
    ] = None,
    record: Annotated[
        bool,
        typer.Option(
            "--record",
            help=escape("Record the curvature of some steps. The table [record] of the config says which steps."),
        ),
    ] = False,
) -> None:
    """Train the problem of CONFIG and write a run folder, or continue a run."""
    with reported_errors():
        if (config is None) == (resume is None):
            raise ArgumentError("Name a CONFIG, or a run folder with --resume.")
        if resume is not None and (out is not None or overrides or record):
            raise ArgumentError(
                "A resumed run keeps its folder, its config and its recording. Leave out --out, --set and --record."
            )
        path = stored_config(resume) if resume is not None else config
        assert path is not None
        loaded = load_config(path, overrides or [], registry_of(context))  # before torch is imported: errors are quick
        if record and loaded.record is None:
            loaded = load_config(path, [*(overrides or []), "record={}"], registry_of(context))
        from ddn_core.cli.train import train_run

        if resume is None:
            train_run(loaded, path.name, registry_of(context), out or default_folder(path.stem), None)
        else:
            train_run(None, path.name, registry_of(context), None, resume)


@app.command()
def sweep(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Argument(metavar="CONFIG", help="Config of a new sweep, a .toml or a .json file.")
    ] = None,
    grid: Annotated[
        list[str] | None,
        typer.Option(
            "--grid",
            metavar="PATH=V1,V2,...",
            help="Try each of these values, which are TOML literals. The option can be repeated.",
        ),
    ] = None,
    ranges: Annotated[
        list[str] | None,
        typer.Option(
            "--random",
            metavar="PATH=LOW..HIGH",
            help="Draw values from a range; log:LOW..HIGH draws their logarithm uniformly. The option can be repeated.",
        ),
    ] = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Number of combinations to draw. By default, all of a grid.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the draws. By default, 0.")] = None,
    seeds: Annotated[
        int | None,
        typer.Option(min=1, help="Train each combination with this number of seeds, counted from training.seed."),
    ] = None,
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder to write. By default, runs/sweep-CONFIG-TIME.")
    ] = None,
    resume: Annotated[Path | None, typer.Option(metavar="DIR", help="Continue the sweep in this folder.")] = None,
    retry_failed: RetryFailed = False,
    jobs: Jobs = None,
    timeout: Timeout = None,
    metric: Metric = None,
    maximize: Maximize = False,
    allow_diverged: AllowDiverged = False,
) -> None:
    """Train CONFIG with many combinations of values, and rank them."""
    with reported_errors():
        from ddn_core.cli.sweep import sweep as run_sweep
        from ddn_core.cli.trials import Running
        from ddn_core.trials.sweep import Search

        search = Search(tuple(overrides or ()), tuple(grid or ()), tuple(ranges or ()), trials, seed, seeds)
        allowed = context.find_root().params["allowed"]
        running = Running(metric, maximize, jobs, timeout, retry_failed, allowed, allow_diverged)
        status = run_sweep(config, resume, out, search, running, registry_of(context))
    raise typer.Exit(status)


@app.command()
def check(context: typer.Context, config: ConfigPath, overrides: Overrides = None) -> None:
    """Validate CONFIG without training, and show the parameters of each group."""
    with reported_errors():
        loaded = load_config(config, overrides or [], registry_of(context))
        from ddn_core.cli.listing import check_report

        report, problems = check_report(loaded, config.name)
        Terminal().print(report)
        if problems:
            raise config_error(config.name, problems)


@app.command("estimate")
def show_estimate(context: typer.Context, config: ConfigPath, overrides: Overrides = None) -> None:
    """Estimate the operations, the bytes and the shares of time of a training step, without making one."""
    with reported_errors():
        loaded = load_config(config, overrides or [], registry_of(context))
        from ddn_core.cli.estimate import estimate_report

        Terminal().print(estimate_report(loaded, config.name))


@app.command()
def schema(
    context: typer.Context,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="File to write instead.")] = None,
) -> None:
    """Print the JSON Schema of config files with all installed plugins, for an editor."""
    with reported_errors():
        from ddn_core.cli.listing import schema_text

        terminal = Terminal()
        text = schema_text(registry_of(context), out is None and not terminal.encoding.startswith("utf"))
        if out is None:
            terminal.write(text)
            return
        with writing(out):
            out.write_text(text + "\n", encoding="utf-8")


@plugins.callback()
def list_plugins(
    context: typer.Context,
    broken: Annotated[
        bool, typer.Option("--broken", help="Print the tracebacks of the plugins that failed to load.")
    ] = False,
) -> None:
    """List all strategies and problems, and the plugins that failed to load."""
    if context.invoked_subcommand is not None:
        return
    with reported_errors():
        from ddn_core.cli.listing import broken_report, plugin_report

        if not broken:
            Terminal().print(plugin_report(registry_of(context)))
            return
        report, count = broken_report(registry_of(context))
        Terminal().print(lines(report), soft_wrap=True)
        if count:
            raise typer.Exit(1)


@plugins.command("show")
def show_plugin(
    context: typer.Context,
    kind: Annotated[str, typer.Argument(metavar="KIND", help="Kind of a strategy or a problem, such as top-k.")],
) -> None:
    """Show the description, the fields, the origin and an example config of a strategy or a problem."""
    with reported_errors():
        from ddn_core.cli.component_page import component_page

        Terminal().print(component_page(kind, registry_of(context)))


@app.command("new-plugin")
def new_plugin(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the plugin, which is the prefix of its kinds.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FOLDER", help="Folder to write. By default, ddn-NAME.")
    ] = None,
) -> None:
    """Write the package of a new plugin: a damping, a criterion and their tests."""
    with reported_errors():
        from ddn_core.cli.new_plugin import write_plugin

        Terminal().print(lines(write_plugin(name, out)))


@app.command()
def replay(
    context: typer.Context,
    trace: Annotated[
        str,
        typer.Argument(metavar="TRACE", help="Folder of a trace or of a run, or digits for the trace in the package."),
    ],
    configs: Annotated[
        list[Path], typer.Argument(metavar="CONFIG", help="Configs with the criteria and dampings to try.")
    ],
    overrides: Overrides = None,
    splits: Annotated[
        int, typer.Option(min=0, help="Number of random splits into halves, for the expected decrease.")
    ] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the splits.")] = 0,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder to write. By default, runs/replay-TIME.")
    ] = None,
) -> None:
    """Try the strategies of each CONFIG on recorded curvature, without a model."""
    with reported_errors():
        from ddn_core.cli.replay import replay_files

        folder = out or default_folder("replay")
        replay_files(trace, configs, overrides or [], registry_of(context), splits, seed, folder)


@app.command()
def compare(
    context: typer.Context,
    configs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="CONFIG", help="Configs with the same problem, .toml or .json files."),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Train each config with this number of seeds, counted from training.seed of the first. By default, 5.",
        ),
    ] = None,
    targets: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            metavar="METRIC=VALUE",
            help="Report when a run reached this value. The option can be repeated.",
        ),
    ] = None,
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder to write. By default, runs/compare-TIME.")
    ] = None,
    resume: Annotated[Path | None, typer.Option(metavar="DIR", help="Continue the comparison in this folder.")] = None,
    retry_failed: RetryFailed = False,
    jobs: Jobs = None,
    timeout: Timeout = None,
    metric: Metric = None,
    maximize: Maximize = False,
    allow_diverged: AllowDiverged = False,
) -> None:
    """Train several configs of one problem with the same seeds, and rank them."""
    with reported_errors():
        from ddn_core.cli.compare import compare as run_comparison
        from ddn_core.cli.trials import Running
        from ddn_core.runs import Target
        from ddn_core.trials.comparison import Contest

        contest = Contest(tuple(configs or ()), tuple(overrides or ()), seeds)
        wanted = tuple(str(Target.of_text(text)) for text in targets or ())
        allowed = context.find_root().params["allowed"]
        running = Running(metric, maximize, jobs, timeout, retry_failed, allowed, allow_diverged, wanted)
        status = run_comparison(contest, resume, out, running, registry_of(context))
    raise typer.Exit(status)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Run folders.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="File to write. By default, RUN/report.html for one run, runs/report-TIME.html for several.",
        ),
    ] = None,
) -> None:
    """Write one HTML file about runs, with curves, curvature, directions and settings; it needs no network."""
    with reported_errors():
        from ddn_core.cli.report import report_runs

        say(Terminal(), report_runs(runs, out))


@app.command()
def spectrum(
    context: typer.Context,
    config: ConfigPath,
    checkpoint: Annotated[
        Path,
        typer.Option(metavar="FILE", help="Run folder, checkpoint, or file with the state_dict of the model."),
    ],
    data: Annotated[Data, typer.Option(help="Data of the problem to use.")] = Data.train,
    samples: Annotated[int, typer.Option(min=1, help="Number of samples.")] = 128,
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder to write. By default, runs/spectrum-CONFIG-TIME.")
    ] = None,
) -> None:
    """Compute and draw the curvature of a trained model on the data of CONFIG."""
    with reported_errors():
        loaded = load_config(config, overrides or [], registry_of(context))
        from ddn_core.cli.spectrum import spectrum_report

        folder = out or default_folder(f"spectrum-{config.stem}")
        spectrum_report(loaded, config.name, registry_of(context), checkpoint, data.value, samples, folder)

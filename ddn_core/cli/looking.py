"""The commands that look at what is there: recorded curvature, trained models, runs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

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


class Data(StrEnum):
    """Data of a problem."""

    train = "train"
    test = "test"


def add_commands(app: typer.Typer) -> None:
    """Give the commands to an app."""
    for command in (replay, compare, report, spectrum):
        app.command()(command)


def replay(
    context: typer.Context,
    trace: Annotated[
        str, typer.Argument(metavar="TRACE", help="Folder of a trace or of a run; digits for the one that is shipped.")
    ],
    configs: Annotated[list[Path], typer.Argument(metavar="CONFIG...", help="Files with criteria and dampings.")],
    overrides: Overrides = None,
    splits: Annotated[int, typer.Option(min=0, help="Random splits into halves, for the expected decrease.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the splits.")] = 0,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder to write; by default runs/replay-TIME.")
    ] = None,
) -> None:
    """Show what the strategies of each CONFIG do on recorded curvature, without a model."""
    with errors_told():
        from ddn_core.cli.replay import replay_files

        folder = out or default_folder(Path("replay"))
        replay_files(trace, configs, overrides or [], registry_of(context), splits, seed, folder)


def spectrum(
    context: typer.Context,
    config: ConfigPath,
    checkpoint: Annotated[
        Path, typer.Option(metavar="FILE", help="A run, its checkpoint, or a file with the model's state_dict.")
    ],
    data: Annotated[Data, typer.Option(help="Which data of the problem.")] = Data.train,
    samples: Annotated[int, typer.Option(min=1, help="Number of samples.")] = 128,
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder to write; by default runs/spectrum-CONFIG-TIME.")
    ] = None,
) -> None:
    """Compute the curvature of a trained model on the data of CONFIG, and draw it."""
    with errors_told():
        loaded = load_config(config, overrides or [], registry_of(context))
        from ddn_core.cli.spectrum import spectrum_report

        folder = out or default_folder(Path(f"spectrum-{config.stem}"))
        spectrum_report(loaded, config.name, registry_of(context), checkpoint, data.value, samples, folder)


def compare(
    context: typer.Context,
    configs: Annotated[
        list[Path] | None, typer.Argument(metavar="CONFIG...", help=".toml or .json files, of one problem.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Train each with this many seeds, from the first's training.seed on; 5.")
    ] = None,
    targets: Annotated[
        list[str] | None,
        typer.Option("--target", metavar="METRIC=VALUE", help="Tell when this was reached; may be given again."),
    ] = None,
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder to write; by default runs/compare-TIME.")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Go on with the comparison in this folder.")
    ] = None,
    retry_failed: RetryFailed = False,
    jobs: Jobs = None,
    timeout: Timeout = None,
    metric: Metric = None,
    maximize: Maximize = False,
) -> None:
    """Train several configs of one problem with the same seeds, and rank them."""
    with errors_told():
        from ddn_core.cli.compare.command import Contest
        from ddn_core.cli.compare.command import compare as run_comparison
        from ddn_core.cli.trials.session import Running

        contest = Contest(tuple(configs or ()), tuple(overrides or ()), seeds)
        running = Running(metric, maximize, jobs, timeout, retry_failed, context.find_root().params["allowed"])
        status = run_comparison(contest, resume, out, targets or (), running, registry_of(context))
    raise typer.Exit(status)


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", help="File to write; by default RUN/report.html, or runs/report-TIME.html."
        ),
    ] = None,
) -> None:
    """Write one HTML file about runs: curves, curvature, directions, settings; it opens without network."""
    with errors_told():
        from ddn_core.cli.report import report_runs

        Console().print(report_runs(runs, out), markup=False, highlight=False, soft_wrap=True)

"""Subcommands of `python -m benchmarks`: one for each part, `all`, and `report`."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from benchmarks.everyday.optimizers import our_sides
from benchmarks.parts import PARTS, defaults
from benchmarks.reporting.display import show
from benchmarks.reporting.page import write_page
from benchmarks.reporting.part import Part, Result, run
from benchmarks.settings import Settings

RESULTS, DOCUMENTATION = Path("build/benchmarks"), Path("docs")
_QUICK_REPETITIONS = 2
_WIDTH = 160

app = typer.Typer(
    help="Measure the time, memory and accuracy of ddn, and compare them with its peers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Results = Annotated[Path, typer.Option("--results", help="Folder of the results.")]
Documentation = Annotated[Path, typer.Option("--docs", help="Folder of the documentation.")]
Quick = Annotated[
    bool, typer.Option("--quick", help="Test the benchmark itself: small problems, few repetitions, no targets.")
]
Check = Annotated[bool, typer.Option("--check", help="Exit with status 1 if a target is missed.")]
Pattern = Annotated[
    str | None,
    typer.Option(
        "--case", help="Glob on case names problem/grouping/curvature/criterion, e.g. '2c2d/one-group/exact/*'."
    ),
]
Repetitions = Annotated[int, typer.Option("--repetitions", min=1, help="Number of turns; the result is their median.")]
Threads = Annotated[int, typer.Option("--threads", min=0, help="Number of torch threads; 0 for torch's default.")]
Device = Annotated[str, typer.Option("--device", help="Device of models and data.")]
Limit = Annotated[float, typer.Option("--limit", help="Time limit for one process, in seconds.")]


class ProblemSet(StrEnum):
    """Choice of everyday problems."""

    DEVELOPMENT = "development"
    HELD_OUT = "held-out"
    ALL = "all"

    @property
    def sets(self) -> tuple[str, ...]:
        """Names of the sets of problems."""
        return ("development", "held-out") if self is ProblemSet.ALL else (self.value,)


def _command(parts: list[Part]) -> Callable[..., None]:
    """Return a command that measures the given parts and prints their results."""

    def command(
        results: Results = RESULTS,
        quick: Quick = False,
        check: Check = False,
        pattern: Pattern = None,
        repetitions: Repetitions = 5,
        threads: Threads = 0,
        device: Device = "cpu",
        limit: Limit = 600.0,
    ) -> None:
        settings = Settings(
            results=results,
            quick=quick,
            pattern=pattern,
            repetitions=_QUICK_REPETITIONS if quick else repetitions,
            threads=threads or torch.get_num_threads(),
            device=device,
            limit=limit,
        )
        _measure(parts, settings, check)

    return command


def _measure(parts: list[Part], settings: Settings, check: bool) -> None:
    """Measure parts and print their results."""
    console = _console()
    found = []
    for part in parts:
        if not part.is_possible:
            console.print(f"{part.title}: not run, because this machine has no GPU that torch can use.")
            continue
        with console.status(part.title):
            found.append(run(part, settings, lambda line: console.print(line, style="dim", highlight=False)))
        show(found[-1], console)
    _end(found, check)


def _console() -> Console:
    """Return a console that is wide enough for the tables, even without a terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH)


def _end(found: list[Result], check: bool) -> None:
    """Exit with status 1 if `check` is set and a target was missed."""
    if check and any(target.met is False for result in found for target in result.summary.targets):
        raise typer.Exit(1)


for _part in PARTS.values():
    if _part is defaults.PART:  # has a command of its own
        continue
    app.command(_part.name, help=f"{_part.title}.")(_command([_part]))
app.command("all", help="Measure every part, one after the other.")(_command(list(PARTS.values())))


@app.command(defaults.PART.name, help=f"{defaults.PART.title}.")
def train_with_defaults(
    results: Results = RESULTS,
    quick: Quick = False,
    check: Check = False,
    pattern: Annotated[str | None, typer.Option("--case", help="Glob on the names of problems.")] = None,
    problems: Annotated[ProblemSet, typer.Option("--problems", help="Problems to train.")] = ProblemSet.ALL,
    presets: Annotated[
        list[str],
        typer.Option("--preset", help="Preset of our optimizer, or module:function. May be given several times."),
    ] = ["default"],  # noqa: B006  # typer makes no use of it but to read it
    first_order_only: Annotated[bool, typer.Option("--first-order-only", help="Leave our optimizer out.")] = False,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Number of seeds.")] = 3,
) -> None:
    """Train everyday problems with our optimizer and with first-order optimizers."""
    settings = Settings(
        results=results,
        quick=quick,
        pattern=pattern,
        threads=1,
        problem_sets=problems.sets,
        presets=() if first_order_only else tuple(presets),
        seeds=seeds,
    )
    try:
        our_sides(settings.presets)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--preset") from error
    _measure([defaults.PART], settings, check)


@app.command()
def report(results: Results = RESULTS, documentation: Documentation = DOCUMENTATION, check: Check = False) -> None:
    """Write the page of the documentation from the stored results, and print them."""
    found = write_page(list(PARTS.values()), results, documentation)
    console = _console()
    for result in found:
        show(result, console)
    _end(found, check)

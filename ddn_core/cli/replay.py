"""`ddn replay`: the strategies of config files on recorded curvature, as a table and as files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ddn_core.cli.options import check_new, new_folder
from ddn_core.cli.terminal import Terminal, say
from ddn_core.config import load_config
from ddn_core.files import writing
from ddn_core.plugins.registry import Registry
from ddn_core.reports import check_installed, size_text, write_report
from ddn_core.tables import short_text
from ddn_core.testing import digits_trace
from ddn_core.traces import Replay, Replayed, Trace, replay

SHIPPED = "digits"
"""Name of the trace that comes with ddn."""


def replay_files(
    trace: str,
    configs: Sequence[Path],
    overrides: Sequence[str],
    registry: Registry,
    splits: int,
    seed: int,
    out: Path,
) -> None:
    """Replay configs on a trace, print the results, and write them to files.

    Args:
        trace: Folder of a trace or of a run, or the name of the trace in the package.
        configs: Config files, which give the candidates their names.
        overrides: Assignments for all configs.
        registry: The plugins.
        splits: Number of random splits into halves.
        seed: Seed of the splits.
        out: Folder to write.

    Raises:
        ArgumentError: The trace cannot be read, a config does not fit it, or the folder is not empty.
        ConfigError: A config is wrong.
        StrategyError: A strategy raised, or returned an invalid result.
    """
    check_installed()
    check_new(out)  # a long replay is not lost
    loaded = digits_trace() if trace == SHIPPED and not Path(trace).exists() else Trace.read(trace)
    candidates = {}
    for path in configs:
        name = path.stem if path.stem not in candidates else str(path)
        candidates[name] = load_config(path, overrides, registry)
    result = replay(loaded, candidates, splits, seed, registry)
    console = Terminal()
    say(console, repr(loaded))
    console.print(replay_table(result))
    write_replay(result, new_folder(out), console)


def write_replay(result: Replay, folder: Path, console: Console) -> None:
    """Write the figures and the report into a folder, and print their paths."""
    with writing(folder / "replay.csv"):
        result.write_csv(folder / "replay.csv")
    size = write_report(folder / "report.html", replay=result)
    say(console, f"written: {folder / 'replay.csv'}, {folder / 'report.html'} ({size_text(size)})")


def replay_table(result: Replay) -> Table:
    """Return a table with a row for each recorded step, group and candidate."""
    several = len({one.group for one in result.results}) > 1
    table = Table(title="Replay: one step of each candidate", title_justify="left")
    for heading in ("step", *(["group"] if several else []), "candidate", "kept", "damping", "step norm"):
        table.add_column(heading, justify="left" if heading == "candidate" else "right", overflow="fold")
    for heading in ("predicted", "expected", "ms"):
        table.add_column(heading, justify="right")
    for one in result.results:
        row = one.to_dict()
        expected = "-" if math.isnan(one.expected_decrease) else f"{one.expected_decrease:.3g}"
        first = one.name == result.names[0]
        table.add_row(
            str(one.step) if first else "",
            *([str(one.group) if first else ""] if several else []),
            one.name,
            f"{row['kept']}/{row['directions']}",
            _dampings(one),
            short_text(row["step_norm"]),
            short_text(row["predicted_decrease"]),
            expected,
            short_text(row["milliseconds"]) if one.name != result.names[0] else "",
            end_section=one.name == result.names[-1],
        )
    table.caption = "predicted: decrease of the loss by the quadratic model; expected: by held-out halves of samples"
    return table


def _dampings(one: Replayed) -> str:
    row = one.to_dict()
    low, high = short_text(row["damping_min"]), short_text(row["damping_max"])
    return low if low == high else f"{low}-{high}"

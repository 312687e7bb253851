"""Start-up time of commands that need no torch, against the import of torch."""

from __future__ import annotations

from matplotlib.figure import Figure

from benchmarks.measuring.commands import COMMANDS, time_commands
from benchmarks.measuring.failure import failed
from benchmarks.measuring.own_process import in_own_process
from benchmarks.reporting.part import Measurements, Part, Progress
from benchmarks.reporting.plots import OURS, figure
from benchmarks.reporting.summary import Summary, Table, ratio_of, seconds_text, times, worst_target
from benchmarks.settings import Settings

_UNIT = "import torch"
_BOUND = 0.5
LIGHT = [name for name in COMMANDS if name.startswith(("ddn", "import ddn")) and not name.endswith("with a problem")]
"""Commands that must not import torch."""


def measure(settings: Settings, progress: Progress) -> Measurements:
    """Return the times of all commands."""
    outcome = in_own_process(time_commands, {"repetitions": settings.repetitions}, settings)
    found = dict.fromkeys(COMMANDS, outcome) if failed(outcome) else outcome
    progress(f"imports: ddn --help {seconds_text(found['ddn --help'])}, import torch {seconds_text(found[_UNIT])}")
    return [found]


def summarize(measurements: Measurements) -> Summary:
    """Return one table, and the target."""
    (found,) = measurements
    ratios = {name: ratio_of(found[name], found[_UNIT]) for name in COMMANDS}
    rows = [[name, seconds_text(found[name]), times(ratios[name])] for name in COMMANDS]
    target = worst_target(
        "Each command that needs no model: at most half the time of importing torch",
        {name: ratios[name] for name in LIGHT},
        _BOUND,
        at_least=False,
    )
    columns = ["command", "time", "/ import torch"]
    return Summary([Table("From the start of the process to its end", columns, rows)], [target])


def draw(measurements: Measurements) -> dict[str, Figure]:
    """Return a figure of the times."""
    (found,) = measurements
    picture, (axis,) = figure(width=7.5)
    known = [name for name in COMMANDS if not failed(found[name])]
    axis.barh(known[::-1], [found[name]["seconds"] for name in known[::-1]], color=OURS)
    axis.grid(axis="y", visible=False)
    axis.set_xlabel("seconds")
    return {"commands": picture}


PART = Part(
    name="imports",
    title="Start-up",
    text="Commands and imports, each in a separate process. They take turns, and all files are in the system's cache.",
    measure=measure,
    summarize=summarize,
    draw=draw,
)

"""`ddn report`: runs as one HTML file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from ddn_core.reports.page import check_installed, size_text, write_report
from ddn_core.runs import RunRecord

REPORT = "report.html"


def report_runs(folders: Sequence[Path], out: Path | None) -> str:
    """Write a report of runs, and return what is told of it.

    Args:
        folders: The run folders.
        out: The file; by default within the folder of a single run, and in `runs` for several.

    Raises:
        ArgumentError: A folder is no run folder, or plotly is not installed, or the file cannot be written.
    """
    check_installed()
    folders = list({folder.resolve(): folder for folder in folders}.values())
    runs = [RunRecord.read(folder, name) for folder, name in zip(folders, unique_names(folders), strict=True)]
    if out is None and len(folders) == 1:
        out = folders[0] / REPORT
    path = out or Path("runs") / f"report-{datetime.now():%Y%m%d-%H%M%S}.html"
    return f"{path}, {size_text(write_report(path, runs))}; opens without network"


def unique_names(folders: Sequence[Path]) -> list[str]:
    """Return the name of each folder, with as many of those it is in as it takes to tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    names = [own[-1] for own in parts]
    for depth in range(2, max(map(len, parts)) + 1):
        counts = Counter(names)
        names = ["/".join(own[-depth:]) if counts[name] > 1 else name for own, name in zip(parts, names, strict=True)]
    return names

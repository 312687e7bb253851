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
    """Write a report of runs, and return a line with its path and its size.

    Args:
        folders: The run folders.
        out: The file. By default, it is in the folder of a single run, or in `runs` for several.

    Raises:
        ArgumentError: A folder is not a run folder, plotly is not installed, or the file cannot be written.
    """
    check_installed()
    folders = list({folder.resolve(): folder for folder in folders}.values())
    runs = [RunRecord.read(folder, name) for folder, name in zip(folders, unique_names(folders), strict=True)]
    if out is None and len(folders) == 1:
        out = folders[0] / REPORT
    path = out or Path("runs") / f"report-{datetime.now():%Y%m%d-%H%M%S}.html"
    return f"{path}, {size_text(write_report(path, runs))}; opens without network"


def unique_names(folders: Sequence[Path]) -> list[str]:
    """Return the names of folders, with as many parent folders as distinguish them."""
    parts = [folder.resolve().parts for folder in folders]
    names = [own[-1] for own in parts]
    for depth in range(2, max(map(len, parts)) + 1):
        counts = Counter(names)
        names = ["/".join(own[-depth:]) if counts[name] > 1 else name for own, name in zip(parts, names, strict=True)]
    return names

"""Tables of runs: final values, settings for comparison, versions of packages."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ddn_core.reports.curves import figure_text
from ddn_core.reports.figures_runs import labels, merged_evaluations
from ddn_core.reports.parts import Section, Table
from ddn_core.runs import EvaluationEvent, RunRecord

_ABSENT = "–"
_LONG = 14
"""Largest number of rows of a table that does not scroll within the page."""


def headline_section(runs: Sequence[RunRecord]) -> Section | None:
    """Return the final losses and metrics of all runs that have begun."""
    runs = [run for run in runs if run.steps or run.evaluations]
    if not runs:
        return None
    metrics = list(dict.fromkeys(name for run in runs for event in run.evaluations for name in event.test_metrics))
    columns = ["run", "training loss", "test loss", *(f"test {name}" for name in metrics), "steps", "seconds"]
    rows = [_headline(label, run, metrics) for label, run in zip(labels(runs), runs, strict=True)]
    table = Table("Each run at its end", columns, rows, tall=len(rows) > _LONG)
    text = (
        "Training loss is the mean over the batches since the evaluation before the last; test loss and metrics are "
        "those of the last evaluation. Seconds are those of the whole run, including evaluations."
    )
    return Section("headline", "How the runs ended" if len(runs) > 1 else "How the run ended", text, tables=[table])


def settings_section(runs: Sequence[RunRecord]) -> Section | None:
    """Return the resolved configs for comparison, with the differences first."""
    if not runs:
        return None
    flat = [flattened({name: value for name, value in run.config.items() if name != "provenance"}) for run in runs]
    columns = ["setting", *labels(runs)]
    if len(runs) == 1:
        (only,) = flat
        table = Table(
            "All settings", columns, [[path, value] for path, value in only.items()], folded=True, numbers=False
        )
        return Section("settings", "Settings", "The config with all defaults filled in.", tables=[table])
    paths = list(dict.fromkeys(path for one in flat for path in one))
    rows = {path: [one.get(path, _ABSENT) for one in flat] for path in paths}
    differing = [[path, *cells] for path, cells in rows.items() if len(set(cells)) > 1]
    equal = [[path, cells[0]] for path, cells in rows.items() if len(set(cells)) == 1]
    tables = []
    if differing:
        tables.append(Table("Settings that differ", columns, differing, numbers=False, tall=len(differing) > _LONG))
    if equal:
        tables.append(
            Table(f"Equal in all runs: {len(equal)} settings", ["setting", "value"], equal, folded=True, numbers=False)
        )
    text = "The configs with all defaults filled in. " + (
        f"{len(differing)} settings differ; {_ABSENT} stands where a run has no such setting."
        if differing
        else "No setting differs."
    )
    return Section("settings", "Settings side by side", text, tables=tables)


def versions_section(runs: Sequence[RunRecord]) -> Section | None:
    """Return the versions of packages of each run."""
    if not any(run.config.get("provenance") for run in runs):
        return None
    flat = [_versions(run.config.get("provenance") or {}) for run in runs]
    names = list(dict.fromkeys(name for one in flat for name in one))
    rows = [[name, *(one.get(name, _ABSENT) for one in flat)] for name in names]
    marked = frozenset(number for number, row in enumerate(rows) if len(set(row[1:])) > 1)
    table = Table("Versions", ["package", *labels(runs)], rows, marked, numbers=False)
    text = "Versions of packages, as recorded by the runs." + (" Marked rows differ between runs." if marked else "")
    return Section("versions", "Versions", text, tables=[table])


def flattened(table: Mapping[str, Any]) -> dict[str, str]:
    """Return the values in nested tables by their path, in the notation of `--set`."""
    found: dict[str, str] = {}
    _flatten(table, "", found)
    return found


def _flatten(value: Any, path: str, found: dict[str, str]) -> None:
    inner: Mapping[str, Any] | None = None
    if isinstance(value, Mapping):
        inner = {str(name): one for name, one in value.items()}
    elif isinstance(value, list) and any(isinstance(one, Mapping | list) for one in value):
        inner = {str(number): one for number, one in enumerate(value)}
    if inner:
        for name, one in inner.items():
            _flatten(one, f"{path}.{name}" if path else name, found)
    else:
        found[path] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _versions(provenance: Mapping[str, Any]) -> dict[str, str]:
    found = {name: str(value) for name, value in provenance.items() if not isinstance(value, Mapping | list)}
    for plugin in provenance.get("plugins") or []:
        found[f"plugin {plugin.get('name')}"] = f"{plugin.get('distribution')} {plugin.get('version')}"
    return found


def _headline(label: str, run: RunRecord, metrics: Sequence[str]) -> list[str]:
    events = merged_evaluations(run)
    last = events[-1] if events else None

    def text(value: Callable[[EvaluationEvent], float | None]) -> str:
        return _ABSENT if last is None else figure_text(value(last))

    loss = text(lambda event: event.train_loss)
    if last is None and run.steps:
        loss = f"{figure_text(run.steps[-1].loss)} (last batch)"
    seconds = last.seconds if last is not None else math.fsum(event.seconds for event in run.steps)
    cells = [text(lambda event: event.test_loss)]
    cells += [text(lambda event, name=name: event.test_metrics.get(name)) for name in metrics]  # type: ignore[misc]
    diverged = "" if run.diverged_at is None else f" (diverged at step {run.diverged_at})"
    name = f"{label}{diverged}" if run.finished else f"{label} (not finished)"
    return [name, loss, *cells, str(len(run.steps)), f"{seconds:.1f}"]

"""Errors of our and ViViT's float32 steps against a float64 step from plain autograd."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from matplotlib.figure import Figure

from benchmarks.architectures import ARCHITECTURES, PROBLEMS
from benchmarks.measuring.failure import failed
from benchmarks.measuring.own_process import in_own_process
from benchmarks.measuring.reference import errors_of_sides
from benchmarks.parts.selection import cases_of
from benchmarks.reporting.part import Measurements, Part, Progress
from benchmarks.reporting.plots import figure, grouped_bars, legend
from benchmarks.reporting.summary import Summary, Table, Target, worst_target, yes_or_no
from benchmarks.settings import Settings

_BOUND = 1e-4
_ROUNDING = 16 * torch.finfo(torch.float32).eps
_CRITERIA = {"top-10": "top 10 directions", "all": "all directions"}
_SIDES = ["ours", "vivit"]


def measure(settings: Settings, progress: Progress) -> Measurements:
    """Return the relative errors for each case and criterion."""
    measurements = []
    for case in cases_of(settings, "*/one-group/exact/top-10"):
        outcome = in_own_process(errors_of_sides, {"case": asdict(case), "sides": _SIDES}, settings)
        for criterion in _CRITERIA:
            found = dict.fromkeys(("gradient", *_SIDES), outcome) if failed(outcome) else outcome[criterion]
            measurements.append({"case": asdict(case) | {"criterion": criterion}, **found})
            progress(f"{case.problem}, {criterion}: ours {_text(found['ours'])}, ViViT {_text(found['vivit'])}")
    return measurements


def _text(found: dict[str, Any]) -> str:
    if failed(found):
        return str(found["failure"])
    return "not finite" if found["error"] is None else f"{found['error']:.1e}"


def _error(found: dict[str, Any]) -> float | None:
    """Return an error: infinite if the step is not finite, and None if there is no step."""
    if failed(found):
        return None
    return float("inf") if found["error"] is None else float(found["error"])


def _our_error(measurement: dict[str, Any]) -> float:
    """Return our error, infinite if our step failed."""
    error = _error(measurement["ours"])
    return float("inf") if error is None else error


def _no_worse(measurement: dict[str, Any]) -> bool | None:
    """Return whether our error is at most ViViT's, or no more than rounding; None without ViViT."""
    theirs = _error(measurement["vivit"])
    return None if theirs is None else _our_error(measurement) <= max(theirs, _ROUNDING)


def summarize(measurements: Measurements) -> Summary:
    """Return a table and two targets for each criterion."""
    tables, targets = [], []
    for criterion, title in _CRITERIA.items():
        found = {m["case"]["problem"]: m for m in measurements if m["case"]["criterion"] == criterion}
        rows = []
        for problem, measurement in found.items():
            no_worse = _no_worse(measurement)
            rows.append(
                [
                    ARCHITECTURES[problem].title,
                    _text(measurement["gradient"]),
                    _text(measurement["vivit"]),
                    _text(measurement["ours"]),
                    yes_or_no(_our_error(measurement) <= _BOUND),
                    "" if no_worse is None else yes_or_no(no_worse),
                ]
            )
        columns = ["problem", "plain gradient", "ViViT", "ours", "1e-4 or less", "no worse than ViViT"]
        tables.append(Table(f"Relative error of the step, {title}", columns, rows))
        targets += _targets(title, found)
    return Summary(tables, targets)


def _targets(title: str, found: dict[str, dict[str, Any]]) -> list[Target]:
    wanted = f"Exact float32 step, one group, {title}: relative error at most 1e-4, for each problem"
    errors = {problem: _our_error(found[problem]) if problem in found else None for problem in PROBLEMS}
    verdicts = {problem: _no_worse(found[problem]) if problem in found else None for problem in PROBLEMS}
    worse = [problem for problem, verdict in verdicts.items() if verdict is False]
    unknown = [problem for problem, verdict in verdicts.items() if verdict is None]
    measured = f"worse: {', '.join(worse)}" if worse else "none is worse"
    if unknown:
        measured = (
            "not measured" if len(unknown) == len(PROBLEMS) else f"{measured}; not measured: {', '.join(unknown)}"
        )
    return [
        worst_target(wanted, errors, _BOUND, at_least=False, unit=""),
        Target(f"The same, {title}: no worse than ViViT's", measured, False if worse else None if unknown else True),
    ]


def draw(measurements: Measurements) -> dict[str, Figure]:
    """Return a figure of the errors."""
    picture, axes = figure(columns=len(_CRITERIA), width=9.0)
    for axis, (criterion, title) in zip(axes, _CRITERIA.items(), strict=True):
        shown = [m for m in measurements if m["case"]["criterion"] == criterion]
        errors = {side: [None if failed(m[side]) else m[side]["error"] for m in shown] for side in _SIDES}
        grouped_bars(axis, [ARCHITECTURES[m["case"]["problem"]].title for m in shown], errors)
        axis.axhline(_BOUND, color="black", linestyle=":", linewidth=1)
        axis.set_yscale("log")
        axis.set_title(title)
    axes[0].set_ylabel("relative error of the step")
    legend(picture)
    return {"errors": picture}


PART = Part(
    name="accuracy",
    title="Accuracy",
    text=(
        "Relative error of the exact float32 step with one group, against a float64 step from plain autograd. That "
        "reference differentiates the rows of V one by one, forms every matrix, and shares no code with the engine. "
        "The error of the plain float32 gradient shows the error of evaluating the model in float32. Errors up to "
        f"16 times the precision of float32 ({_ROUNDING:.1e}) count as equally good. The dotted line is the target."
    ),
    measure=measure,
    summarize=summarize,
    draw=draw,
)

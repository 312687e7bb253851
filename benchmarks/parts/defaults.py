"""Training of everyday problems by our optimizer without any setting, against tuned first-order optimizers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from benchmarks.everyday import HELD_OUT, SETS, EverydayProblem
from benchmarks.everyday.optimizers import FIRST_ORDER, Side, our_sides
from benchmarks.measuring.failure import failed, failure_of
from benchmarks.measuring.kept_runs import fingerprint, kept
from benchmarks.measuring.learning_curve import L_BFGS, train, train_l_bfgs
from benchmarks.parts.everyday_comparison import CHECKS, Comparison
from benchmarks.parts.everyday_tables import (
    count_met,
    count_table,
    loss_table,
    names,
    number,
    our_names,
    problem_table,
    test_error_table,
    time_table,
)
from benchmarks.reporting.part import Measurements, Part, Progress
from benchmarks.reporting.plots import figure, legend
from benchmarks.reporting.summary import Summary, Target
from benchmarks.settings import Settings

_DEFAULT = "default, "
_HIGHEST_RATIO = 1e4
_ROW_HEIGHT = 0.3


def measure(settings: Settings, progress: Progress) -> Measurements:
    """Return the runs of all sides for each problem, in one thread.

    Runs of the first-order side are kept in the folder of the results, and repeated only if their problem changes.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        sides = our_sides(settings.presets)
        _warm_up(sides)
        return [_measure_problem(*chosen, sides, settings, progress) for chosen in _chosen(settings)]
    finally:
        torch.set_num_threads(threads)


def _chosen(settings: Settings) -> Iterator[tuple[str, str, EverydayProblem]]:
    """Yield the set, the name and the problem of those to train."""
    for problem_set in ("quick",) if settings.quick else settings.problem_sets:
        for name, make in SETS[problem_set].items():
            if fnmatchcase(name, settings.pattern or "*"):
                yield problem_set, name, make()


def _warm_up(sides: Sequence[Side]) -> None:
    """Train a tiny problem with a side of each kind, so that no run pays for what a process does once."""
    problem = SETS["quick"]["quick"]()
    for side in (FIRST_ORDER[0], *sides):
        _attempted(partial(train, problem, side, 0))


def _measure_problem(
    problem_set: str,
    name: str,
    problem: EverydayProblem,
    sides: Sequence[Side],
    settings: Settings,
    progress: Progress,
) -> dict[str, Any]:
    """Return a description of a problem, and the runs of all sides and seeds.

    The best first-order setting runs again, in turns with our side, so that its times are comparable with ours.
    """
    seeds = range(1 if settings.quick else settings.seeds)
    found: dict[str, Any] = {
        "problem": name,
        "set": problem_set,
        "title": problem.title,
        "samples": len(problem.training),
        "parameters": sum(parameter.numel() for parameter in problem.model(0).parameters()),
        "batch_size": problem.batch_size,
        "epochs": problem.epochs,
        "runs": [
            run for seed in seeds for run in _first_order_runs(problem, seed, settings.results / "defaults" / name)
        ],
        "timed": [],
    }
    best = next(side for side in FIRST_ORDER if side.name == Comparison(found).best.side)
    for seed in seeds if sides else ():
        found["timed"].append({"side": best.name, "seed": seed, **train(problem, best, seed)})
        for side in sides:
            run = _attempted(partial(train, problem, side, seed))
            found["runs"].append({"side": side.name, "seed": seed, **run})
    progress(_line(Comparison(found)))
    return found


def _first_order_runs(problem: EverydayProblem, seed: int, folder: Path) -> list[dict[str, Any]]:
    """Return the runs of the first-order settings and, on full batches, of L-BFGS; they are kept in a folder."""
    runs = {side.name: partial(train, problem, side, seed) for side in FIRST_ORDER}
    if problem.is_full_batch:
        runs[L_BFGS] = partial(train_l_bfgs, problem, seed)
    mark = fingerprint(problem, seed)
    files = {side: folder / f"{side.replace(' ', '-')}-{seed}-{mark}.json" for side in runs}
    return [{"side": side, "seed": seed, **kept(files[side], run)} for side, run in runs.items()]


def _attempted(run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the result of a run, or its failure."""
    try:
        return run()
    except Exception as error:
        return failure_of(error)


def _line(found: Comparison) -> str:
    """Return a line about a problem."""
    sides = [found.best, *([found.l_bfgs] if found.l_bfgs else []), *found.ours]
    failures = {run["detail"] for outcome in found.ours for run in outcome.runs if failed(run)}
    losses = "; ".join(f"{outcome.side} {number(outcome.loss)}" for outcome in sides)
    return " ".join([f"{found.problem}: {losses}", *sorted(failures)])


def summarize(measurements: Measurements) -> Summary:
    """Return counts over the problems, tables of all problems, and the targets."""
    found = [Comparison(measurement) for measurement in measurements]
    tables = [loss_table(found), test_error_table(found), time_table(found), problem_table(found)]
    sides = our_names(found)
    held_out = [comparison for comparison in found if comparison.problem_set == "held-out"]
    judged = [side for side in sides if side.startswith(_DEFAULT)] if held_out else []
    targets = [target for side in judged for target in _targets(side, held_out)]
    return Summary([count_table(found), *tables] if sides else tables, targets)


def _targets(side: str, held_out: Sequence[Comparison]) -> list[Target]:
    """Return the targets of a side, which need the runs of all held-out problems."""
    diverged = sum(comparison.outcomes[side].diverged for comparison in held_out)
    found = [("no run diverges", f"{diverged} diverged", diverged == 0)]
    for check in CHECKS:
        met = count_met(check, held_out, side)
        wanted = f"{check.wanted}, on {check.share:.0%} of the problems"
        found.append((wanted, f"{met} of {len(held_out)}", met >= check.share * len(held_out)))
    is_complete = len(held_out) == len(HELD_OUT)
    return [
        Target(f"Held-out problems, {side}: {wanted}", *((measured, met) if is_complete else ("not measured", None)))
        for wanted, measured, met in found
    ]


def draw(measurements: Measurements) -> dict[str, Figure]:
    """Return a figure of our training losses as multiples of those of the best first-order settings."""
    found = [Comparison(measurement) for measurement in measurements]
    sides = our_names(found)
    if not sides:
        return {}
    picture, (axis,) = figure(height=1.5 + _ROW_HEIGHT * len(found))
    for side in sides:
        ratios = [min(comparison.loss_ratio(comparison.outcomes[side]), _HIGHEST_RATIO) for comparison in found]
        axis.plot(ratios, range(len(found)), "o", alpha=0.7, label=side)
    axis.axvline(1.0, color="0.3", lw=1)
    axis.set(xscale="log", xlabel=f"our training loss / that of the best of twelve, cut at {_HIGHEST_RATIO:g}")
    axis.set_yticks(range(len(found)), [" ".join(names(comparison)) for comparison in found])
    axis.invert_yaxis()
    legend(picture, below=True)
    return {"losses": picture}


PART = Part(
    name="defaults",
    title="Defaults on everyday problems",
    text=(
        "`DirectionalDampedNewton(model.named_parameters())`, without any setting, trains small problems as users have "
        "them: once without a closure, by `backward(loss)` and `step()`, and once by `step(closure)`. The other side "
        "is the best of twelve settings, chosen for each problem by its training loss: Adam and AdamW with learning "
        "rates of 0.001, 0.005, 0.02 and 0.06, and SGD with Nesterov momentum 0.9 and learning rates of 0.003, 0.01, "
        "0.05 and 0.2. On full batches, L-BFGS with strong Wolfe conditions has as many evaluations as the others have "
        "epochs. All sides have the same initial weights, order of data and number of epochs. Nobody tuned the default "
        "on the held-out problems.\n\n"
        "Losses are those of all training data after the last epoch; a loss of less than 1e-10 of the first counts as "
        "that. A run has diverged if its loss is not finite, or above the first. The test error is the share of wrong "
        "classes or the root of the mean squared error in standard deviations of the targets. Times are processor "
        "times of the steps, without evaluations, in one thread. For them, the best setting runs again, in turns with "
        "ours. Other results of the first-order side are kept in `build/benchmarks/defaults` until a problem changes."
    ),
    measure=measure,
    summarize=summarize,
    draw=draw,
)

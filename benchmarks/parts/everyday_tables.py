"""Tables of the comparisons on everyday problems: losses, test errors, times, and counts."""

from __future__ import annotations

from collections.abc import Sequence
from math import isinf

from benchmarks.parts.everyday_comparison import CHECKS, Check, Comparison, Outcome
from benchmarks.reporting.summary import Table, duration, times


def our_names(found: Sequence[Comparison]) -> list[str]:
    """Return the names of our sides."""
    return list(dict.fromkeys(outcome.side for comparison in found for outcome in comparison.ours))


def count_met(check: Check, found: Sequence[Comparison], side: str) -> int:
    """Return the number of problems on which a side passes a check."""
    return sum(check.is_met(comparison, comparison.outcomes[side]) for comparison in found)


def count_table(found: Sequence[Comparison]) -> Table:
    """Return the numbers of diverged runs and of problems that pass each check, by side and set of problems."""
    rows = []
    for side in our_names(found):
        for problem_set in dict.fromkeys(comparison.problem_set for comparison in found):
            chosen = [comparison for comparison in found if comparison.problem_set == problem_set]
            ours = [comparison.outcomes[side] for comparison in chosen]
            runs, diverged = sum(len(outcome.runs) for outcome in ours), sum(outcome.diverged for outcome in ours)
            met = [count_met(check, chosen, side) for check in CHECKS]
            rows.append([side, problem_set, f"{diverged} of {runs}", *(f"{count} of {len(ours)}" for count in met)])
    columns = ["side", "set", "diverged runs", *(check.title for check in CHECKS)]
    return Table("Problems on which our optimizer is no worse", columns, rows)


def loss_table(found: Sequence[Comparison]) -> Table:
    """Return the training losses."""
    columns = ["problem", "set", "best of twelve", "its loss", "L-BFGS", *our_names(found)]
    rows = [
        [
            *names(comparison),
            comparison.best.side,
            number(comparison.best.loss),
            number(comparison.l_bfgs.loss) if comparison.l_bfgs else "",
            *map(_loss, comparison.ours),
        ]
        for comparison in found
    ]
    return Table("Training loss, geometric mean over the seeds", columns, rows)


def test_error_table(found: Sequence[Comparison]) -> Table:
    """Return the test errors."""
    columns = ["problem", "set", "best of twelve", "its error", "lowest of twelve", "L-BFGS", *our_names(found)]
    rows = [
        [
            *names(comparison),
            comparison.best.side,
            _test_error(comparison.best),
            number(comparison.lowest_test_error),
            _test_error(comparison.l_bfgs) if comparison.l_bfgs else "",
            *map(_test_error, comparison.ours),
        ]
        for comparison in found
    ]
    return Table("Test error, mean and standard deviation over the seeds", columns, rows)


def time_table(found: Sequence[Comparison]) -> Table:
    """Return the times to the loss of the best first-order setting."""
    columns = ["problem", "set", "best of twelve", "its time", "L-BFGS", *our_names(found)]
    rows = [
        [
            *names(comparison),
            comparison.best.side,
            duration(comparison.best_seconds),
            _time(comparison, comparison.l_bfgs) if comparison.l_bfgs else "",
            *(_time(comparison, outcome) for outcome in comparison.ours),
        ]
        for comparison in found
    ]
    return Table("Processor time to the training loss of the best of twelve", columns, rows)


def problem_table(found: Sequence[Comparison]) -> Table:
    """Return the descriptions of the problems."""
    columns = ["problem", "set", "data and model", "samples", "parameters", "batch size", "epochs"]
    rows = [
        [
            *names(comparison),
            *(str(comparison.measurement[key]) for key in ("title", "samples", "parameters")),
            str(comparison.measurement["batch_size"] or "all"),
            str(comparison.measurement["epochs"]),
        ]
        for comparison in found
    ]
    return Table("Everyday problems", columns, rows)


def names(found: Comparison) -> list[str]:
    """Return the names of a problem and of its set."""
    return [found.problem, found.problem_set]


def number(value: float) -> str:
    """Return a number with three digits."""
    return f"{value:.3g}"


def _loss(outcome: Outcome) -> str:
    """Return the loss with the number of diverged runs, if there are any."""
    return number(outcome.loss) + (f" ({outcome.diverged} diverged)" if outcome.diverged else "")


def _test_error(outcome: Outcome) -> str:
    """Return the test error with its standard deviation over the seeds."""
    return f"{number(outcome.test_error)} ± {outcome.test_deviation:.1g}"


def _time(found: Comparison, outcome: Outcome) -> str:
    """Return a time, also as a multiple of that of the best first-order setting."""
    seconds = found.seconds(outcome)
    return "not reached" if isinf(seconds) else f"{duration(seconds)} ({times(found.time_ratio(outcome))})"

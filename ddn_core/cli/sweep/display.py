"""What a sweep shows at its end: the trials that failed, the best combinations, what was written."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ddn_core.cli.sweep.plan import Plan, Trial
from ddn_core.cli.sweep.space import plain
from ddn_core.cli.sweep.table import BEST, Standing
from ddn_core.cli.trials.display import say, show_failures, titled
from ddn_core.cli.trials.folder import TABLE, TrialFolder
from ddn_core.cli.trials.process import Result

_ROWS = 10


def summarize(
    console: Console,
    folder: TrialFolder,
    plan: Plan,
    results: Mapping[int, Result],
    standings: list[Standing],
    best: Trial | None,
) -> None:
    """Print the trials that failed, the best combinations, and what was written."""
    show_failures(console, plan.tasks(folder.path), results, "values")
    if standings:
        console.print(_ranking(plan, standings))
    if best is not None:
        say(console, f"best config: {folder.path / BEST} (trial {best.number}, {plan.label(best)})")
    say(console, f"all trials: {folder.path / TABLE}")


def _ranking(plan: Plan, standings: list[Standing]) -> Table:
    order = "more" if plan.maximize else "less"
    shown = f", the first {_ROWS} of {len(standings)}" if len(standings) > _ROWS else ""
    table = titled(f"{plan.metric} after the last epoch, {order} is better{shown}")
    for path in plan.trials[0].values:
        table.add_column(Text(path), overflow="fold")
    several = plan.seeds > 1
    for name in (f"median {plan.metric}", "range", "seeds") if several else (plan.metric,):
        table.add_column(Text(name), justify="right", no_wrap=True)
    table.add_column("trials" if several else "trial", justify="right")
    for one in standings[:_ROWS]:
        low, high = one.ends
        numbers = [trial.number for trial in one.trials]
        spread = [f"{low:.4g} to {high:.4g}", f"{len(one.measured)} of {len(numbers)}"] if several else []
        span = f"{numbers[0]}-{numbers[-1]}" if several else str(numbers[0])
        values = [Text(plain(value)) for value in one.trials[0].values.values()]
        table.add_row(*values, f"{one.median:.4g}", *spread, span)
    return table

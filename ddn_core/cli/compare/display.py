"""The leaderboard, as it is printed: the median over the seeds, and below it the range."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ddn_core.cli.compare.plan import Plan
from ddn_core.cli.trials.display import count, titled
from ddn_core.runs.comparison import Comparison, Spread
from ddn_core.runs.scores import Target

_METRICS = 3
"""Number of metrics that fit beside each other on a narrow terminal."""


def show_comparison(console: Console, plan: Plan, comparison: Comparison) -> None:
    """Print the leaderboard, what it took, the times to targets, and what the seeds say about chance."""
    console.print(_leaderboard(comparison))
    console.print(_costs(comparison))
    for target in comparison.targets:
        console.print(_times(comparison, target))
    for note in plan.notes:
        console.print(Text(f"note: {note}"))
    if len(comparison.standings) > 1:
        console.print(Text(comparison.statement))


def _leaderboard(comparison: Comparison) -> Table:
    order = "more" if comparison.maximize else "less"
    metrics = comparison.metrics[:_METRICS]
    over = f"median and range over {count(len(comparison.seeds), 'seed')}"
    table = _table(f"{comparison.metric} after the last epoch, {order} is better; {over}", metrics)
    for one in comparison.standings:
        name = Text(f"{one.name}\n{one.finished} of {len(one.scores)} finished")
        table.add_row(name, *(_cell(one.final(metric)) for metric in metrics))
    return table


def _costs(comparison: Comparison) -> Table:
    table = _table("what the runs took", ["epochs", "steps", "seconds", "of them in steps"])
    for one in comparison.standings:
        spreads = [one.cost(what) for what in ("epoch", "step", "seconds", "step_seconds")]
        table.add_row(Text(one.name), *map(_cell, spreads))
    return table


def _times(comparison: Comparison, target: Target) -> Table:
    table = _table(f"to {target}", ["reached", "epochs", "steps", "seconds in steps"])
    for one in comparison.standings:
        reached = f"{one.reached(target)} of {len(one.scores)}"
        spreads = [one.until(target, what) for what in ("epoch", "step", "step_seconds")]
        table.add_row(Text(one.name), reached, *map(_cell, spreads))
    return table


def _table(title: str, columns: list[str]) -> Table:
    table = titled(title)
    table.box = SIMPLE_HEAD
    table.add_column("config", overflow="fold", max_width=24)
    for name in columns:
        table.add_column(Text(name), justify="right", overflow="fold")
    return table


def _cell(spread: Spread) -> Text:
    if spread.low == spread.high:
        return Text(spread.median_text(6 if spread.low is not None and spread.low.is_integer() else 3))
    digits = 6 if all(value.is_integer() for value in spread.values) else 3
    return Text(f"{spread.median_text(digits)}\n{spread.range_text(digits)}")

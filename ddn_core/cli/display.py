"""Display of a run: a progress bar, a line for each epoch, a summary."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from ddn_core.cli.terminal import say
from ddn_core.runs.events import EvaluationEvent, StepEvent
from ddn_core.runs.record import CHECKPOINT, CONFIG, METRICS, PICTURE
from ddn_core.training import RunStart, TrainingResult


class TrainingDisplay:
    """Progress bar, lines and summary of a run in the terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("[bold]training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task = self._progress.add_task("training", total=None)
        self._steps: list[StepEvent] = []
        self._header_shown = False

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def begin(self, start: RunStart) -> None:
        """Set the bar to the first step, and print the notes on a resumed run."""
        for note in start.notes:
            self._print(f"note: {note}")
        self._progress.update(self._task, total=start.total_steps, completed=start.step)

    def show(self, event: StepEvent | EvaluationEvent) -> None:
        """Advance the bar after a step, and print a line after an epoch."""
        if isinstance(event, StepEvent):
            self._steps.append(event)
            self._progress.advance(self._task)
            return
        if not event.ends_epoch:
            return
        if not self._header_shown:
            metrics = "".join(f"{_heading(name):>{_width(name)}}" for name in event.test_metrics)
            self._print(
                f"{'epoch':>5}{'loss':>11}{'test loss':>11}{metrics}{'step norm':>11}{'directions':>12}  damping"
            )
            self._header_shown = True
        norm = self._steps[-1].step_norm if self._steps else None
        metrics = "".join(f"{value:>{_width(name)}.4f}" for name, value in event.test_metrics.items())
        self._print(
            f"{event.epoch:>5}{event.train_loss:>11.4g}{event.test_loss:>11.4g}{metrics}"
            f"{'-' if norm is None else format(norm, '.3g'):>11}{_range(self._steps):>12}  {self._damping_range()}"
        )
        self._steps.clear()

    def summarize(self, result: TrainingResult) -> None:
        """Print the final losses and metrics, the reason why the run stopped, and the files of the run."""
        end, history = result.end, result.history
        diverged = end is not None and end.diverged_at is not None
        how = "finished" if end is None else "diverged" if diverged else "stopped"
        table = Table(
            title=f"Run {how}", show_header=False, title_justify="left", title_style="red" if diverged else None
        )
        last = history.epochs[-1] if history.epochs else None
        if end is not None and (last is None or last.step < end.step):
            table.add_row("steps", str(end.step))  # a run that diverged has no evaluation at its end
        elif last is not None:
            table.add_row("steps", f"{last.step} in {last.seconds:.1f} s")
            table.add_row("training loss", f"{last.train_loss:.4g}")
            table.add_row("test loss", f"{last.test_loss:.4g}")
            for name, value in last.test_metrics.items():
                table.add_row(f"test {name}", f"{value:.4g}")
        if end is not None:
            table.add_row("why", str(end))
        table.add_row("run folder", str(result.folder))
        written = [
            name for name in (CONFIG, METRICS, CHECKPOINT, PICTURE) if result.folder and (result.folder / name).exists()
        ]
        table.add_row("written", ", ".join(written))
        if result.recorder is not None:
            recorder, index = result.recorder, result.recorder.index
            left = f"; {len(index.left_out)} did not fit" if index.left_out else ""
            size = f"{index.bytes / 1e6:.1f} of at most {index.megabytes:g} MB"
            table.add_row("trace", f"{recorder.folder}: {len(index.steps)} steps, {size}{left}")
        self._console.print(table)
        for note in result.notes:
            self._print(f"note: {note}")

    def _damping_range(self) -> str:
        lows = [event.damping_min for event in self._steps if event.damping_min is not None]
        highs = [event.damping_max for event in self._steps if event.damping_max is not None]
        if not lows:
            return "none"
        low, high = f"{min(lows):.3g}", f"{max(highs):.3g}"
        return low if low == high else f"{low} to {high}"

    def _print(self, line: str) -> None:
        say(self._console, line)


def _heading(metric: str) -> str:
    return f"test {metric}"


def _width(metric: str) -> int:
    return max(15, len(_heading(metric)) + 2)


def _range(events: list[StepEvent]) -> str:
    values = [event.directions for event in events if event.directions is not None]
    if not values:
        return "-"
    return str(min(values)) if min(values) == max(values) else f"{min(values)}-{max(values)}"

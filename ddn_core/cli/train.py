"""`ddn train`: train with a progress bar, and stop at an interrupt from the keyboard."""

from __future__ import annotations

import signal
import threading
from contextlib import ExitStack
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import typer
from rich.console import Console

from ddn_core.cli.display import TrainingDisplay
from ddn_core.cli.status import INTERRUPTED
from ddn_core.cli.terminal import Terminal, say
from ddn_core.config import Config
from ddn_core.plugins.registry import Registry
from ddn_core.runs import EndEvent
from ddn_core.training import RunStart, train
from ddn_core.trials.process import DIVERGED


def train_run(config: Config | None, source: str, registry: Registry, out: Path | None, resume: Path | None) -> None:
    """Train to the end, and show the progress.

    Args:
        config: The config of a new run.
        source: Name of the config in error messages.
        registry: The plugins.
        out: Run folder of a new run.
        resume: Folder of a run that continues, in place of config and output folder.

    Raises:
        DdnError: Config, problem or run folder is wrong, or a step failed.
        typer.Exit: The user interrupted the run, or it diverged.
    """
    console = Terminal()
    display, interrupt = TrainingDisplay(console), Interrupt()
    with ExitStack() as stack:

        def begin(start: RunStart) -> None:
            stack.enter_context(interrupt)  # not before: until the first step, an interrupt stops at once
            stack.enter_context(display)
            display.begin(start)

        result = train(
            config,
            out,
            resume=resume,
            on_start=begin,
            on_event=display.show,
            should_stop=lambda: interrupt.noted,
            source=source,
            registry=registry,
        )
    assert result.folder is not None
    if not result.finished:
        say(console, f"interrupted; continue with: ddn train --resume {result.folder}")
        raise typer.Exit(INTERRUPTED)
    display.summarize(result)
    if result.end is not None and result.end.diverged_at is not None:
        show_divergence(Terminal(stderr=True), result.end)
        raise typer.Exit(DIVERGED)


def show_divergence(console: Console, end: EndEvent) -> None:
    """Print that a run diverged, and what to try, in red."""
    lines = [str(end), *(["what to try:"] if end.advice else []), *(f"  - {one}" for one in end.advice)]
    for line in lines:
        say(console, line, "red")


class Interrupt:
    """Notes the first interrupt from the keyboard, so that the run can stop after a step; a second one stops at once.

    Attributes:
        noted: Whether there was an interrupt.
    """

    def __init__(self) -> None:
        self.noted = False
        self._before: Any = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.noted = True
        self._restore()

    def _restore(self) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None

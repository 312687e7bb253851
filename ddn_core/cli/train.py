"""`ddn train`, in order: set up, write or find the run folder, train, finish."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console

from ddn_core.cli.display import TrainingDisplay
from ddn_core.cli.interrupt import Interrupt
from ddn_core.config import Config
from ddn_core.config.provenance import resolved_config
from ddn_core.plugins.registry import Registry
from ddn_core.runs.record import TRACE
from ddn_core.traces import Recorder
from ddn_core.training.loop import Training
from ddn_core.training.run_folder import RunFolder

INTERRUPTED = 130
"""Exit status after an interrupt from the keyboard."""


def train_run(config: Config, source: str, registry: Registry, out: Path, resume: Path | None) -> None:
    """Train to the end, and leave a finished run folder.

    Args:
        config: What to train.
        source: Name of its file, for messages.
        registry: The plugins.
        out: Folder to write.
        resume: Folder of a run to go on with, in place of that.

    Raises:
        DdnError: Config, problem or run folder is wrong, or a step failed.
    """
    resolved = resolved_config(config, registry)
    training = Training.of(config, source)
    console = Console()
    if resume is None:
        folder, notes = RunFolder.begin(out, resolved), []
    else:
        folder = RunFolder(resume, resolved)
        notes = folder.resume(training)
    ended = False
    try:
        if config.record is not None:
            training.recorder = Recorder(folder.path / TRACE, config.record)
            training.recorder.resume(training.step_count)
        with Interrupt() as interrupt, TrainingDisplay(console, training.total_steps) as display:
            for note in notes:
                display.note(note)
            display.begin_at(training.step_count)
            for event in training.events():
                folder.record(event)
                display.show(event)
                if training.at_rest:
                    folder.checkpoint(training, 0.0 if interrupt.noted else config.training.checkpoint_seconds)
                    if interrupt.noted:
                        break
            else:
                folder.finish(training)
                ended = True
    except Exception:
        folder.give_up()
        raise
    if not ended:
        folder.close()
        console.print(f"interrupted; go on with: ddn train --resume {folder.path}", markup=False, soft_wrap=True)
        raise typer.Exit(INTERRUPTED)
    display.summarize(training.history, folder.path, training.recorder)

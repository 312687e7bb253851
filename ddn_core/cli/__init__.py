"""The `ddn` command.

process.py         the process of a command: streams, interrupts, exit status
status.py          exit statuses
app.py             the commands and their options
options.py         options and helpers that several commands share
train.py           `ddn train`: progress and interrupts around `ddn_core.training.train`
terminal.py        the console that every command prints through
display.py         progress bar, lines and summary of a run
listing.py         `ddn check`, `ddn plugins` and `ddn schema`
component_page.py  `ddn plugins show KIND`
estimate.py        `ddn estimate`: cost of a step by group and parameter
replay.py          `ddn replay`: strategies on recorded curvature
spectrum.py        `ddn spectrum`: curvature of a trained model
report.py          `ddn report`: runs as one HTML file
trials.py          the part that `ddn sweep` and `ddn compare` share: progress, failures, exit status
sweep.py           `ddn sweep`: one config with many values
compare.py         `ddn compare`: several configs with the same seeds
new_plugin.py      `ddn new-plugin NAME`: fills in the files of template/
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run the `ddn` command, and end the process with its exit status."""
    try:
        from ddn_core.cli.process import run

        status = run()
    except KeyboardInterrupt:
        status = 130  # the constant may not be imported yet
    sys.exit(status)

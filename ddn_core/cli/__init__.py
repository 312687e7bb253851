"""The `ddn` command.

app.py          the commands and their options
display.py      what a run shows
listing.py      tables of `ddn check` and `ddn plugins`
component_page.py  `ddn plugins show KIND`
schema_file.py  `ddn schema`
trials/         many runs, each a process of its own
sweep/          `ddn sweep`: one config with many values
compare/        `ddn compare`: several configs with the same seeds
new_plugin.py   `ddn new-plugin NAME`: fills in the files of template/
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run the `ddn` command."""
    try:
        from ddn_core.cli.app import app
    except ImportError as error:
        sys.exit(f"ddn: the command line needs {error.name}: pip install 'ddn-core[train]'")
    app()

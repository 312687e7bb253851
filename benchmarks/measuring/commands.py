"""Duration of commands, each from the start of its process to its end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from benchmarks.measuring.failure import FAILED, failure
from benchmarks.measuring.own_process import ROOT

GROUP = '[[groups]]\nparams = ["*"]\ncriterion = {{ kind = "{criterion}" }}\ndamping = {{ kind = "bootstrap" }}\n'
FILES = {
    "bad.toml": GROUP.format(criterion="bulky-edge"),
    "good.toml": GROUP.format(criterion="bulk-edge"),
    "digits.toml": '[problem]\nkind = "digits-mlp"\n' + GROUP.format(criterion="bulk-edge"),
}
_DDN = "from ddn_core.cli import main; main()"
COMMANDS: Mapping[str, Sequence[str]] = {
    "python, nothing": ("pass",),
    "import torch": ("import torch",),
    "import ddn_core.api": ("import ddn_core.api",),
    "ddn --help": (_DDN, "--help"),
    "ddn check, a config with an error": (_DDN, "check", "bad.toml"),
    "ddn check, a config without a problem": (_DDN, "check", "good.toml"),
    "ddn check, a config with a problem": (_DDN, "check", "digits.toml"),
    "ddn plugins": (_DDN, "plugins"),
    "ddn schema": (_DDN, "schema"),
}
"""Code that Python runs, and its arguments, by the name of the command."""


def time_commands(repetitions: int) -> dict[str, Any]:
    """Return the median time of each command by name; the commands take turns, after one turn to fill the caches."""
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with TemporaryDirectory() as folder:
        for name, text in FILES.items():
            Path(folder, name).write_text(text)
        for turn in range(repetitions + 1):
            for name, (code, *arguments) in COMMANDS.items():
                start = perf_counter()
                process = subprocess.run(
                    [sys.executable, "-c", code, *arguments],
                    cwd=folder,
                    env={**os.environ, "PYTHONPATH": str(ROOT)},
                    capture_output=True,
                    text=True,
                )
                spent = perf_counter() - start
                if (process.returncode != 0) != ("bad.toml" in arguments):
                    return failure(FAILED, process.stderr[-500:])
                if turn:
                    seconds[name].append(spent)
    return {name: {"seconds": median(times)} for name, times in seconds.items()}

"""Helpers for tests of commands that run trials: the command in this process, and trials that wait until they are killed."""

from __future__ import annotations

import contextlib
import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

from filelock import FileLock
from typer.testing import CliRunner

from ddn_core.cli.app import app

ENVIRONMENT = {"NO_COLOR": "1", "PYTHONWARNINGS": "error"}
COMMAND = [sys.executable, "-W", "error", "-c"]
CODE = "from ddn_core.cli import main; main()"

# `wait_if_held` is called by trials: it announces that the trial has come this far, and never returns.
WAITING = '''
import os, sys, time
from pathlib import Path

def wait_if_held(moment):
    """Announce the moment and wait until this process is killed, if the test asked for that."""
    if Path("hold").exists() and Path("hold").read_text() == str(moment):
        Path("held").touch()
        while True:
            time.sleep(60)
'''

# Behaves like `ddn train` as far as its parent can see, without torch. It may be held after its run has begun.
TRAINER = f"""{WAITING}
import json
from ddn_core.trials.process import die_with_parent

die_with_parent()
arguments = sys.argv[1:]
resumed = "--resume" in arguments
run = Path(arguments[arguments.index("--resume" if resumed else "--out") + 1])
config = run / "config.resolved.json"
if not resumed:
    run.mkdir()
    seed = int(next(text.partition("=")[2] for text in arguments if text.startswith("training.seed=")))
    config.write_text(json.dumps({{"training": {{"seed": seed}}}}))
seed = json.loads(config.read_text())["training"]["seed"]
with (run / "sittings").open("a") as sittings:
    sittings.write("resumed " if resumed else "begun ")
wait_if_held(run)
epoch = {{"event": "epoch", "epoch": 1, "step": 1, "train_loss": 1 / seed, "test_loss": 1.0, "test_metrics": {{}}}}
epoch |= {{"whole_train_loss": None, "seconds": 1.0, "step_seconds": 0.5, "ends_epoch": True}}
(run / "metrics.jsonl").write_text(json.dumps(epoch) + "\\n")
(run / "checkpoint.pt").touch()
"""

# A plugin with a constant damping that may be held before the n-th step of its process.
DAMPING = f'''{WAITING}
from itertools import count

import torch
from ddn_core.api import Damping, hookimpl

steps = count(1)

class Held(Damping, kind="held/constant"):
    """A damping of one."""

    def damp(self, directions):
        """Return one."""
        wait_if_held(next(steps))
        return torch.ones_like(directions.evals)

@hookimpl
def ddn_dampings():
    return [Held]
'''


def ddn(*arguments, cwd, columns=250):
    """Run a command in this process; its trials are processes of their own."""
    with contextlib.chdir(cwd):
        return CliRunner().invoke(app, list(map(str, arguments)), env={**ENVIRONMENT, "COLUMNS": str(columns)})


def trainer(place):
    """Write the stand-in for `ddn train` into a folder, and return its command."""
    (place / "trainer.py").write_text(TRAINER)
    return sys.executable, str(place / "trainer.py")


def code_with(trainer):
    """Return the code of a command whose trials are of another trainer."""
    return f"from ddn_core.trials import process; process._CHILD = {trainer!r}; {CODE}"


def start(*arguments, cwd, code=CODE, path=None):
    """Start a command as a process of its own, which a test can signal."""
    code = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler); {code}"  # a shell may ignore it
    paths = [str(path)] if path else []
    paths += [os.environ["PYTHONPATH"]] if "PYTHONPATH" in os.environ else []
    environment = {**os.environ, **ENVIRONMENT, "COLUMNS": "250", "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.Popen(
        [*COMMAND, code, *map(str, arguments)], cwd=cwd, env=environment, stdout=-1, stderr=-1, text=True
    )


def hold(place, moment):
    """Have trials wait at a moment until they are killed."""
    (place / "held").unlink(missing_ok=True)
    (place / "hold").write_text(str(moment))


def release(place):
    """Have trials wait no more."""
    (place / "hold").unlink()


def wait_for(path, process):
    """Wait until a path exists, which a process creates."""
    for _ in range(15_000):  # five minutes at least: a process that hangs fails the test rather than the whole run
        if path.exists():
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.02)
            assert path.exists(), process.stderr.read()
    raise AssertionError(f"{path} is missing")


def kill(process, folder):
    """Kill a command, and wait until its trials have died with it: until then they hold the folder's lock."""
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with FileLock(folder / "lock", timeout=300):
        pass


def interrupt(process):
    """Interrupt a command from the keyboard, and return what it printed."""
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate()
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    return output


def install_damping(site):
    """Install the plugin with the damping that may be held into a folder, and return the folder."""
    info = site / "ddn_held-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ddn-held\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[ddn]\nheld = held_ddn\n")
    (site / "held_ddn.py").write_text(DAMPING)
    return site


def table(path):
    """Return the rows of a CSV file."""
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))

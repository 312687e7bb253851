"""Interrupts from the keyboard while modules load, and while a command works."""

from __future__ import annotations

import signal

import pytest

from tests.faults.command import CODE, CONFIG, ended, start, wait_until

pytestmark = pytest.mark.slow

# Announces that a module is imported, and waits in the middle of its import. An exception there would be swallowed.
LOADING = """\
import sys, time

class Finder:
    def find_spec(self, name, path, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            print("here", file=sys.__stderr__, flush=True)
            try:
                time.sleep(60)
            except BaseException:
                pass

sys.meta_path.insert(0, Finder())
"""


def interrupted(process):
    """Interrupt a command, and return its status, and what it wrote after that."""
    process.send_signal(signal.SIGINT)
    return ended(process)


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("ddn_core.cli.app", ["--help"]),
        ("ddn_core.cli.listing", ["plugins"]),
        ("torch", ["estimate", "config.toml"]),
        ("torch", ["train", "config.toml", "--out", "run"]),
        ("matplotlib", ["spectrum", "config.toml", "--checkpoint", "none"]),
        ("ddn_core.cli.sweep", ["sweep", "config.toml", "--seeds", "2"]),
    ],
)
def test_an_interrupt_while_modules_load_ends_quietly(module, arguments, tmp_path):
    (tmp_path / "config.toml").write_text(CONFIG)
    process = start(*arguments, cwd=tmp_path, code=LOADING.format(module=module) + CODE)
    assert process.stderr.readline() == b"here\n"
    assert interrupted(process) == (130, "", "")
    assert [path.name for path in tmp_path.iterdir()] == ["config.toml"]


PLUGIN = """\
import time

from ddn_core.plugins import registry

def wait(self):
    import sys
    print("here", file=sys.__stderr__, flush=True)
    time.sleep(60)

registry.Registry.plugins = wait
"""


def test_an_interrupt_while_a_command_works_ends_quietly(tmp_path):
    process = start("plugins", cwd=tmp_path, code=PLUGIN + CODE)
    assert process.stderr.readline() == b"here\n"
    assert interrupted(process) == (130, "", "")


def test_an_interrupted_run_can_continue(tmp_path):
    (tmp_path / "config.toml").write_text(CONFIG.replace("epochs = 1", "epochs = 100000"))
    process = start("train", "config.toml", "--out", "run", cwd=tmp_path)
    metrics = tmp_path / "run" / "metrics.jsonl"
    wait_until(lambda: metrics.exists() and metrics.stat().st_size, process)
    status, output, errors = interrupted(process)
    assert (status, errors) == (130, "")
    assert output.endswith("interrupted; continue with: ddn train --resume run\n")


def test_an_interrupted_sweep_can_continue(tmp_path):
    (tmp_path / "config.toml").write_text(CONFIG.replace("epochs = 1", "epochs = 100000"))
    process = start("sweep", "config.toml", "--seeds", "2", "--jobs", "1", "--out", "sweep", cwd=tmp_path)
    wait_until(lambda: list(tmp_path.glob("sweep/trials/*/run/metrics.jsonl")), process)
    status, output, errors = interrupted(process)
    assert (status, errors) == (130, "")
    assert output.endswith("interrupted; continue with: ddn sweep --resume sweep\n")

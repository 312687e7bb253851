"""Commands with plugins that misbehave, in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

PLUGIN = """
import os, signal, sys
from ddn_core.api import Damping, Problem, hookimpl

print("a plugin says hello")
os.chdir("/")
signal.signal(signal.SIGINT, signal.SIG_IGN)

class One(Damping, kind="odd/one"):
    '''δ_k = 1.'''

    def damp(self, directions):
        return 0 * directions.evals + 1

class Quitting(Problem, kind="odd/quitting"):
    '''Ends the process.'''

    def load(self):
        print("the problem, too")
        sys.exit(0)

@hookimpl
def ddn_dampings():
    return [One]

@hookimpl
def ddn_problems():
    return [Quitting]
"""


@pytest.fixture
def site(tmp_path):
    """A folder with two plugins, one of which ends the process when it is imported."""
    folder = tmp_path / "site"
    for name, source in (("odd", PLUGIN), ("exiting", "import sys\nsys.exit(0)")):
        information = folder / f"ddn_{name}-0.1.dist-info"
        information.mkdir(parents=True)
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: ddn-{name}\nVersion: 0.1\n")
        (information / "entry_points.txt").write_text(f"[ddn]\n{name} = {name}_ddn\n")
        (folder / f"{name}_ddn.py").write_text(source, encoding="utf-8")
    return folder


def ddn(site, cwd, *arguments, output=subprocess.PIPE):
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-c", "from ddn_core.cli import main; main()", *arguments]
    environment = {**os.environ, "COLUMNS": "250", "NO_COLOR": "1", "PYTHONPATH": path}
    return subprocess.run(
        command, cwd=cwd, env=environment, stdout=output, stderr=subprocess.PIPE, text=True, timeout=300, check=False
    )


def test_a_schema_in_a_file_is_json_whatever_plugins_print(site, tmp_path):
    with open(tmp_path / "schema.json", "w", encoding="utf-8") as file:
        done = ddn(site, tmp_path, "schema", output=file)
    assert done.returncode == 0
    schema = json.loads((tmp_path / "schema.json").read_text(encoding="utf-8"))
    assert "damping.odd.one" in schema["$defs"]
    assert "a plugin says hello" in done.stderr
    assert "plugin 'exiting' (ddn-exiting 0.1) failed to import: SystemExit: 0" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_plugin_that_exits_is_listed(site, tmp_path):
    done = ddn(site, tmp_path, "plugins")
    assert done.returncode == 0
    assert "odd/one" in done.stdout
    assert "SystemExit: 0" in done.stdout
    assert "hello" not in done.stdout


def test_a_problem_that_exits_with_status_0_is_an_error(site, tmp_path):
    (tmp_path / "config.toml").write_text('problem = "odd/quitting"\n', encoding="utf-8")
    done = ddn(site, tmp_path, "train", "config.toml", "--out", "run")
    assert done.returncode == 1
    assert "error: problem 'odd/quitting' (ddn-odd 0.1) failed to load: SystemExit: 0" in done.stderr
    assert "Traceback" not in done.stderr
    assert not os.path.exists("/run/config.toml")

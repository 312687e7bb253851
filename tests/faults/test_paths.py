"""Paths that cannot be used: too long, below a file, read-only, not UTF-8, on a disk that is full."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from tests.commands import ddn
from tests.faults.command import CONFIG, assert_one_line, run

pytestmark = pytest.mark.slow

LONG = "a" * 300
BELOW_A_FILE = "config.toml/below"
NOT_UTF8 = b"name\xff"
OUTPUTS = {
    "train": ["train", "config.toml", "--out"],
    "sweep": ["sweep", "config.toml", "--seeds", "1", "--grid", "training.seed=0", "--jobs", "1", "--out"],
    "compare": ["compare", "config.toml", "--seeds", "1", "--jobs", "1", "--out"],
    "replay": ["replay", "digits", "config.toml", "--out"],
    "schema": ["schema", "--out"],
    "new-plugin": ["new-plugin", "acme", "--out"],
}
"""Commands that write to a path, without this path."""
INPUTS = {
    "check": ["check"],
    "estimate": ["estimate"],
    "train": ["train"],
    "resume": ["train", "--resume"],
    "sweep": ["sweep", "--seeds", "2"],
    "resume a sweep": ["sweep", "--resume"],
    "compare": ["compare"],
    "resume a comparison": ["compare", "--resume"],
    "replay": ["replay", "digits"],
    "report": ["report"],
    "spectrum": ["spectrum", "config.toml", "--checkpoint"],
}
"""Commands that read a path, without this path."""


def in_process(*arguments, cwd):
    """Run a command in this process, as quick as it fails, and return its status, output and errors."""
    result = ddn(*arguments, cwd=cwd)
    return result.returncode, result.stdout, result.stderr


def assert_one_line_names(command, path, folder):
    """Check that a command ends with one line that names the path."""
    result = in_process(*command, path, cwd=folder)
    assert_one_line(result)
    assert path in result[2]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.toml").write_text(CONFIG)
    return tmp_path


@pytest.mark.parametrize("path", [LONG, BELOW_A_FILE], ids=["long", "below-a-file"])
@pytest.mark.parametrize("command", OUTPUTS)
def test_an_output_that_cannot_be_made_is_one_line(command, path, folder):
    assert_one_line_names(OUTPUTS[command], path, folder)


@pytest.mark.parametrize("path", [LONG, BELOW_A_FILE], ids=["long", "below-a-file"])
@pytest.mark.parametrize("command", INPUTS)
def test_an_input_that_cannot_be_read_is_one_line(command, path, folder):
    assert_one_line_names(INPUTS[command], path, folder)


@pytest.mark.skipif(not Path("/sys").exists(), reason="the system has no folder that nobody may write")
@pytest.mark.parametrize("command", OUTPUTS)
def test_a_folder_that_nobody_may_write_is_one_line(command, folder):
    assert_one_line_names(OUTPUTS[command], "/sys/out", folder)


def small_files():
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))


@pytest.mark.parametrize("command", OUTPUTS)
def test_a_disk_that_fills_up_is_one_line(command, folder):
    """A limit on the size of files fails in the middle of a write, as a full disk does."""
    result = run(*OUTPUTS[command], "out", cwd=folder, prepare=small_files, MPLCONFIGDIR=str(folder))
    assert_one_line(result)
    assert "out" in result[2]
    assert "File too large" in result[2]


def test_names_that_are_not_utf8_are_escaped(folder):
    """Every command that can use such a name does."""
    name = NOT_UTF8.decode("utf-8", "surrogateescape")
    (folder / f"{name}.toml").write_text(CONFIG)
    for arguments in (
        ["check", NOT_UTF8 + b".toml"],
        ["train", NOT_UTF8 + b".toml", "--out", NOT_UTF8],
        ["report", NOT_UTF8],
        ["replay", "digits", NOT_UTF8 + b".toml", "--out", NOT_UTF8 + b"/replay"],
        [
            "spectrum",
            NOT_UTF8 + b".toml",
            "--checkpoint",
            NOT_UTF8,
            "--samples",
            "20",
            "--out",
            NOT_UTF8 + b"/spectrum",
        ],
    ):
        texts = [one.decode("utf-8", "surrogateescape") if isinstance(one, bytes) else one for one in arguments]
        is_first = arguments[0] in ("check", "train")  # the others are quicker in this process
        status, output, errors = run(*arguments, cwd=folder) if is_first else in_process(*texts, cwd=folder)
        assert (status, errors) == (0, ""), arguments
        assert "name\\udcff" in output.replace("\n", "")
    assert (folder / name / "report.html").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["sweep", NOT_UTF8 + b".toml", "--seeds", "2"],
        ["compare", NOT_UTF8 + b".toml"],
        ["sweep", "config.toml", "--seeds", "2", "--metric", NOT_UTF8],
        ["compare", "config.toml", "--target", NOT_UTF8 + b"=1"],
        ["train", "config.toml", "--set", b'problem.kind="name\xff"'],
    ],
    ids=["sweep", "compare", "metric", "target", "set"],
)
def test_text_that_is_not_utf8_is_refused_before_a_trial_starts(arguments, folder):
    name = NOT_UTF8.decode("utf-8", "surrogateescape")
    (folder / f"{name}.toml").write_text(CONFIG)
    status, _, errors = run(*arguments, cwd=folder)
    assert status == 1
    assert errors.startswith("error: ")
    assert "Traceback" not in errors
    assert "name\\udcff" in errors
    assert not (folder / "runs").exists()

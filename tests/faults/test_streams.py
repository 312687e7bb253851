"""Streams that are full, closed, or cannot encode what is written to them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.faults.command import CONFIG, assert_one_line, ended, run, start

pytestmark = pytest.mark.slow

FULL = Path("/dev/full")
COMMANDS = [
    ["--help"],
    ["check", "config.toml"],
    ["estimate", "config.toml"],
    ["schema"],
    ["plugins"],
    ["plugins", "show", "top-k"],
    ["plugins", "--broken"],
    ["new-plugin", "acme"],
    ["train", "config.toml", "--out", "run"],
    ["replay", "digits", "config.toml", "--out", "replay"],
    ["sweep", "config.toml", "--seeds", "1", "--grid", "training.seed=0", "--jobs", "1", "--out", "sweep"],
]
NAMES = [" ".join(arguments[:2]) for arguments in COMMANDS]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.toml").write_text(CONFIG)
    return tmp_path


@pytest.mark.skipif(not FULL.exists(), reason="the system has no device that is always full")
@pytest.mark.parametrize("arguments", COMMANDS, ids=NAMES)
def test_a_full_output_is_an_error(arguments, folder):
    with FULL.open("wb") as full:
        result = run(*arguments, cwd=folder, stdout=full)
    assert_one_line(result)
    assert "Standard output cannot be written: No space left on device." in result[2]


@pytest.mark.parametrize("arguments", [COMMANDS[0], COMMANDS[4], COMMANDS[8]], ids=["help", "plugins", "train"])
def test_a_pipe_without_a_reader_ends_the_command_quietly(arguments, folder):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as pipe:
        status, _, errors = run(*arguments, cwd=folder, stdout=pipe)
    assert (status, errors) == (1, "")


@pytest.mark.parametrize("arguments", [["plugins"], ["train", "config.toml", "--out", "run"]], ids=["plugins", "train"])
def test_a_closed_output_is_an_error_before_anything_is_done(arguments, folder):
    result = run(*arguments, cwd=folder, prepare=lambda: os.close(1))
    assert_one_line(result)
    assert "Standard output is closed" in result[2]
    assert not (folder / "run").exists()


def test_closed_errors_do_not_end_in_a_file_of_the_run(folder):
    """The numbers of closed streams are given to the next files that are opened."""
    status, _, _ = run("train", "config.toml", "--out", "run", cwd=folder, prepare=lambda: (os.close(0), os.close(2)))
    assert status == 0
    for line in (folder / "run" / "metrics.jsonl").read_text().splitlines():
        json.loads(line)
    assert run("train", "none.toml", cwd=folder, prepare=lambda: os.close(2))[0] == 1


@pytest.mark.skipif(not FULL.exists(), reason="the system has no device that is always full")
@pytest.mark.parametrize(("arguments", "status"), [(["check", "none.toml"], 1), (["nonsense"], 2)])
def test_errors_that_cannot_be_written_keep_the_status(arguments, status, folder):
    with FULL.open("wb") as full:
        returned, output, _ = run(*arguments, cwd=folder, stderr=full)
    assert (returned, output) == (status, "")


@pytest.mark.parametrize(
    ("arguments", "variables"),
    [
        *((arguments, {"PYTHONIOENCODING": "ascii"}) for arguments in COMMANDS),
        (["plugins"], {"PYTHONIOENCODING": "latin-1"}),
        (["schema"], {"PYTHONIOENCODING": "latin-1"}),
        (["plugins"], {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}),
    ],
)
def test_letters_that_cannot_be_encoded_are_replaced(arguments, variables, folder):
    status, output, errors = run(*arguments, cwd=folder, **variables)
    assert (status, errors) == (0, "")
    assert output
    if arguments == ["schema"]:
        assert "δ" in json.dumps(json.loads(output), ensure_ascii=False)  # it is still the same JSON
    elif "ascii" in variables.values():
        assert output.isascii()


def test_an_error_shows_letters_that_cannot_be_encoded(folder):
    status, _, errors = run("check", "δ.toml", cwd=folder, PYTHONIOENCODING="ascii")
    assert (status, errors) == (1, "error: \\u03b4.toml: cannot be read: No such file or directory\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["\x1b[31mx"],
        ["check", "a", "\x1b[31mx"],
        ["--\x1b[31mx"],
        ["check", "--\x1b[31mx"],
        ["plugins", "\x1b[31mx"],
        ["check", "\x1b[31mx\n"],
        ["plugins", "show", "\x1b[31mx"],
    ],
    ids=str,
)
def test_arguments_with_control_characters_are_escaped(arguments, folder):
    status, output, errors = run(*arguments, cwd=folder)
    assert status in (1, 2)
    assert output == ""
    assert "\\x1b[31mx" in errors
    assert "\x1b" not in errors


def test_a_reader_that_ends_early_stops_a_table(folder):
    """As `ddn schema | head -1` does."""
    process = start("schema", cwd=folder)
    process.stdout.read(1)
    process.stdout.close()
    process.stdout = None
    status, _, errors = ended(process)
    assert errors == ""
    assert status in (0, 1)  # what is written may fit into the pipe

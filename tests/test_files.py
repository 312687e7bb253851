"""Files are written whole or not at all, and only where they belong; a folder has one writer."""

from __future__ import annotations

import errno
import os

import pytest

from ddn_core import locks
from ddn_core.errors import ArgumentError
from ddn_core.files import remove_partial_files, write_atomically, writing
from ddn_core.locks import FolderLock


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path):
    for content in (b"old", b"new"):
        write_atomically(tmp_path / "file", content)
        assert (tmp_path / "file").read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_link_is_replaced_and_not_written_through(tmp_path):
    (tmp_path / "outside").write_text("mine")
    (tmp_path / "file").symlink_to(tmp_path / "outside")
    write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "outside").read_text() == "mine"
    assert not (tmp_path / "file").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"new"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_or_a_device_is_not_replaced(tmp_path):
    """A user who names /dev/null as the output must not lose it, not even one who may replace it."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for name in ("pipe", "link"):
        with pytest.raises(ArgumentError, match=f"{name} is a pipe or a device, and ddn does not replace it"):
            write_atomically(tmp_path / name, b"new")
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "link").is_symlink()
    assert len(list(tmp_path.iterdir())) == 2


def test_a_planted_temporary_file_is_not_written_through(tmp_path, monkeypatch):
    """Even if the random part of its name was guessed."""
    monkeypatch.setattr("secrets.token_hex", lambda count: "0" * 2 * count)
    (tmp_path / "outside").write_text("mine")
    planted = tmp_path / f".file.{'0' * 16}.partial"
    planted.symlink_to(tmp_path / "outside")
    with pytest.raises(ArgumentError, match="file cannot be written: File exists"):
        write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "outside").read_text() == "mine"
    assert planted.is_symlink()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing/file", "nothing/file cannot be written: No such file or directory"),
        ("file/file", "file/file cannot be written: Not a directory"),
        ("folder", "folder cannot be written: Is a directory"),
        ("x" * 300, "x cannot be written: File name too long"),
    ],
)
def test_an_error_names_the_file_and_leaves_nothing(name, message, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(ArgumentError, match=message):
        write_atomically(tmp_path / name, b"new")
    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder"}


def test_a_name_may_be_as_long_as_the_system_allows(tmp_path):
    names = {"δ" * 127, "x" * 255}
    for name in names:
        write_atomically(tmp_path / name, b"new")
    assert {path.name for path in tmp_path.iterdir()} == names
    assert all(path.read_bytes() == b"new" for path in tmp_path.iterdir())


def test_the_first_cause_is_reported_if_cleaning_up_fails_too(tmp_path, monkeypatch):
    def fail(path, *_):
        raise OSError(28, "No space left on device")

    def fail_otherwise(path, *_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    monkeypatch.setattr("pathlib.Path.unlink", fail_otherwise)
    with pytest.raises(ArgumentError, match="No space left on device"):
        write_atomically(tmp_path / "file", b"new")


def test_what_kills_left_is_removed_and_nothing_else(tmp_path):
    (tmp_path / "outside").write_text("mine")
    (tmp_path / ".a.0123456789abcdef.partial").symlink_to(tmp_path / "outside")
    (tmp_path / ".b.partial").touch()
    (tmp_path / ".c.partial").mkdir()
    remove_partial_files(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"outside", ".c.partial"}
    assert (tmp_path / "outside").read_text() == "mine"
    remove_partial_files(tmp_path / "nothing")


def test_other_errors_pass():
    with pytest.raises(ZeroDivisionError), writing("x"):
        _ = 1 / 0


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(locks, "PATIENCE", 0)


@pytest.mark.usefixtures("impatient")
def test_a_lock_is_held_once(tmp_path):
    first, second = FolderLock(tmp_path), FolderLock(tmp_path)
    first.acquire("held")
    with pytest.raises(ArgumentError, match="held"):
        second.acquire("held")
    second.release(remove=True)  # what it does not hold it does not remove
    assert os.fstat(first.descriptor).st_ino == (tmp_path / "lock").stat().st_ino
    first.release()
    assert first.descriptor is None
    second.acquire("held")
    second.release(remove=True)
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "outside").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "lock").symlink_to(tmp_path / "outside")
    with pytest.raises(OSError, match="symbolic links"):
        FolderLock(tmp_path / "folder").acquire("held")


def test_a_file_system_without_locks_is_no_error(tmp_path, monkeypatch):
    def missing(*_):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", missing)
    lock = FolderLock(tmp_path)
    lock.acquire("held")
    assert lock.descriptor is None
    lock.release()

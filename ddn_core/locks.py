"""Locks that keep a second process out of a folder."""

from __future__ import annotations

import errno
from contextlib import suppress
from pathlib import Path

from ddn_core.errors import ArgumentError
from ddn_core.files import is_partial

LOCK = "lock"
PATIENCE = 5.0
"""Seconds to wait for a lock: the trials of a command that was killed hold it until they have ended, too."""

_WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


def is_unused(folder: Path, first: str) -> bool:
    """Return whether a folder can be begun: it does not exist, is empty, or was left by a process that a kill ended.

    Such a process leaves at most the lock and a part of the first file.

    Args:
        folder: Path of the folder.
        first: Name of the first file that is written to it.
    """
    if not folder.is_dir():
        return not folder.exists()
    return all(one.name == LOCK or is_partial(one, first) for one in folder.iterdir())


class FolderLock:
    """The lock of a folder, which one process holds at a time.

    The system releases it when the process ends. Processes that are forked from the process do not hold the lock.

    Attributes:
        path: Path of its file.
    """

    def __init__(self, folder: Path) -> None:
        from filelock import FileLock  # not above: the library without its commands needs no filelock

        self.path = folder / LOCK
        self._descriptors: list[int] = []
        self._lock = FileLock(self.path, on_acquired=self._descriptors.append)

    @property
    def descriptor(self) -> int | None:
        """File descriptor of the lock, which a child may inherit; `None` if the lock is not held."""
        return self._descriptors[-1] if self._lock.is_locked else None

    def acquire(self, busy: str) -> None:
        """Hold the lock. On a file system without locks, this does nothing.

        Args:
            busy: Message of the error if another process holds the lock.

        Raises:
            ArgumentError: Another process holds the lock.
            OSError: The file of the lock cannot be opened.
        """
        from filelock import Timeout

        try:
            self._lock.acquire(timeout=PATIENCE)
        except Timeout:
            raise ArgumentError(busy) from None
        except OSError as error:
            if error.errno not in _WITHOUT_LOCKS:
                raise

    def release(self, remove: bool = False) -> None:
        """Release the lock, if it is held.

        Args:
            remove: Whether to remove the file of the lock, too. A process that waits for it makes a new one.
        """
        if remove and self._lock.is_locked:
            with suppress(OSError):
                self.path.unlink()
        with suppress(OSError):  # the system releases the lock at the end of the process
            self._lock.release()

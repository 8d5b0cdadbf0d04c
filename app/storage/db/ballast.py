"""The disk under an embedded database: a ballast file that deletions may use when the disk is full.

SQLite needs space to delete. So a file of some size lies beside the database; when the disk is full it is
removed, appends are refused, and retention and deletions go on. It comes back when there is space again.
"""

from __future__ import annotations

import os
from pathlib import Path


class Ballast:
    """A file of `size_bytes` beside the database, given up when the disk is full."""

    def __init__(self, database: Path, size_bytes: int) -> None:
        self._path = database.with_name(database.name + ".ballast")
        self._size_bytes = size_bytes
        self._exhausted = False
        self._lay()

    @property
    def exhausted(self) -> bool:
        """Whether appends are refused until space returns."""
        return self._exhausted

    def exhaust(self) -> None:
        """Give the ballast up."""
        self._exhausted = True
        self._path.unlink(missing_ok=True)

    def restore(self) -> bool:
        """Take the ballast back if the disk has twice its size to spare. Return whether appends may go on."""
        space = os.statvfs(self._path.parent)
        if self._exhausted and space.f_bavail * space.f_frsize >= 2 * self._size_bytes and self._lay():
            self._exhausted = False
        return not self._exhausted

    def _lay(self) -> bool:
        if self._size_bytes == 0 or (self._path.exists() and self._path.stat().st_size == self._size_bytes):
            return True
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, self._size_bytes)
        except OSError:
            self._path.unlink(missing_ok=True)
            return False
        finally:
            os.close(descriptor)
        return True

"""A ballast file beside an embedded database, whose space deletions use when the disk is full.

SQLite needs space to delete rows. When the disk is full, the ballast file is deleted, appends are refused, and
retention and deletions go on. The file is written again when the disk has space.
"""

from __future__ import annotations

import os
from pathlib import Path


class Ballast:
    """A file of `size_bytes` beside the database, deleted when the disk is full."""

    def __init__(self, database: Path, size_bytes: int) -> None:
        self._path = database.with_name(database.name + ".ballast")
        self._size_bytes = size_bytes
        self._exhausted = False
        self._write()

    @property
    def exhausted(self) -> bool:
        """Whether appends are refused until space returns."""
        return self._exhausted

    def exhaust(self) -> None:
        """Delete the ballast file and refuse appends."""
        self._exhausted = True
        self._path.unlink(missing_ok=True)

    def restore(self) -> bool:
        """Write the file again if twice its size is free on the disk. Return whether appends are accepted."""
        space = os.statvfs(self._path.parent)
        if self._exhausted and space.f_bavail * space.f_frsize >= 2 * self._size_bytes and self._write():
            self._exhausted = False
        return not self._exhausted

    def _write(self) -> bool:
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

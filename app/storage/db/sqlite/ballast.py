"""A ballast file beside an embedded database, whose space deletions use when the disk is full.

SQLite needs space to delete rows. When the disk is full, the ballast file is deleted, appends are refused, and
retention and deletions go on. The file is written again when the disk has space.
"""

from __future__ import annotations

import os
from pathlib import Path

_DISK_PART = 8
_SPARE_BYTES = 4 * 1024 * 1024


def ballast_size(database: Path, size_bytes: int) -> int:
    """Return the size of the ballast of a database: the wanted size, or an eighth of a small disk."""
    space = os.statvfs(database.parent)
    return min(size_bytes, space.f_blocks * space.f_frsize // _DISK_PART)


class Ballast:
    """A file beside the database, deleted when the disk is full.

    If it cannot be written at the start, the disk counts as full.

    Args:
        database: The database file.
        size_bytes: Size of the file by `ballast_size`; 0 for no file.
    """

    def __init__(self, database: Path, size_bytes: int) -> None:
        self._path = database.with_name(database.name + ".ballast")
        self._size_bytes = size_bytes
        self._exhausted = not self._write()

    @property
    def exhausted(self) -> bool:
        """Whether appends are refused until space returns."""
        return self._exhausted

    @property
    def missing_bytes(self) -> int:
        """How many bytes must be freed on the disk before appends are accepted again."""
        return max(0, self._size_bytes + min(self._size_bytes, _SPARE_BYTES) - self._free_bytes())

    def exhaust(self) -> None:
        """Delete the ballast file and refuse appends."""
        self._exhausted = True
        self._path.unlink(missing_ok=True)

    def restore(self) -> bool:
        """Write the file again if the disk has space for it and a little more. Return whether appends are accepted."""
        if self._exhausted and not self.missing_bytes and self._write():
            self._exhausted = False
        return not self._exhausted

    def _free_bytes(self) -> int:
        space = os.statvfs(self._path.parent)
        return space.f_bavail * space.f_frsize

    def _write(self) -> bool:
        if self._size_bytes == 0 or (self._path.exists() and self._path.stat().st_size == self._size_bytes):
            return True
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, self._size_bytes)
        except OSError:
            self._path.unlink(missing_ok=True)
            return False
        finally:
            os.close(descriptor)
        return True

"""A ballast file beside an embedded database, whose space deletions use when the disk is full.

SQLite needs space to delete rows. When the disk is full, the ballast file is deleted, appends are refused, and
retention and deletions go on. The file is written again when the disk has space.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

_DISK_PART = 8
_BLOCK_BYTES = 512
"""The unit of `st_blocks`, whatever the file system."""
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
_SPARE_BYTES = 4 * 1024 * 1024


def ballast_size(database: Path, size_bytes: int) -> int:
    """Return the size of the ballast of a database: the wanted size, or an eighth of a small disk."""
    space = os.statvfs(database.parent)
    return min(size_bytes, space.f_blocks * space.f_frsize // _DISK_PART)


class Ballast:
    """A file beside the database, deleted when the disk is full.

    If the disk has no room for it at the start, the disk counts as full.

    Args:
        database: The database file.
        size_bytes: Size of the file by `ballast_size`; 0 for no file.

    Raises:
        ValueError: The file cannot be written, for another reason than lack of space.
    """

    def __init__(self, database: Path, size_bytes: int) -> None:
        self._path = database.with_name(database.name + ".ballast")
        self._size_bytes = size_bytes
        self._exhausted = False
        try:
            self._write_or_exhaust()
        except OSError as error:
            raise ValueError(
                f"cannot write the ballast file {self._path}: {error.strerror}; mend this, or set "
                "MILLRACE_BALLAST_BYTES=0 to do without it"
            ) from None

    @property
    def exhausted(self) -> bool:
        """Whether appends are refused until space returns."""
        return self._exhausted

    @property
    def missing_bytes(self) -> int:
        """How many bytes must be freed on the disk before appends are accepted again. 0 if this is not known."""
        try:
            space = os.statvfs(self._path.parent)
        except OSError:
            return 0
        return max(0, self._size_bytes + min(self._size_bytes, _SPARE_BYTES) - space.f_bavail * space.f_frsize)

    def exhaust(self) -> None:
        """Delete the ballast file and refuse appends."""
        self._exhausted = True
        with suppress(OSError):
            self._path.unlink()

    def keep(self) -> None:
        """Write the file again if it was deleted. If the disk has no room for it, the disk counts as full."""
        if not self._path.exists():
            with suppress(OSError):
                self._write_or_exhaust()

    def restore(self) -> bool:
        """Write the file again if the disk has space for it and a little more. Return whether appends are accepted."""
        if self._exhausted and not self.missing_bytes:
            with suppress(OSError):
                self._write()
                self._exhausted = False
        return not self._exhausted

    def _write_or_exhaust(self) -> None:
        try:
            self._write()
        except OSError as error:
            if error.errno not in _NO_SPACE:
                raise
            self._exhausted = True

    def _write(self) -> None:
        """Write the file, unless it is there. Never write through a link to a file of another program.

        Raises:
            OSError
        """
        if self._size_bytes == 0 or self._is_allocated():
            return
        self._path.unlink(missing_ok=True)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, self._size_bytes)
        except OSError:
            self._path.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)

    def _is_allocated(self) -> bool:
        """Return whether the file is there and has its space, which the file of a copied folder can lack."""
        try:
            found = self._path.lstat()
        except OSError:
            return False
        whole = found.st_size == self._size_bytes and found.st_blocks * _BLOCK_BYTES >= self._size_bytes
        return stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and whole

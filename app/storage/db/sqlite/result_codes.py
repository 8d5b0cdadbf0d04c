"""The result codes of SQLite: what each is for a request, and what it says about a commit."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable

from app.storage.db.faults import Fault

PRIMARY_CODES: dict[int, Fault] = {
    sqlite3.SQLITE_PERM: Fault.NOT_WRITABLE,
    sqlite3.SQLITE_BUSY: Fault.BUSY,
    sqlite3.SQLITE_LOCKED: Fault.BUSY,
    sqlite3.SQLITE_NOMEM: Fault.NO_RESOURCES,
    sqlite3.SQLITE_READONLY: Fault.NOT_WRITABLE,
    sqlite3.SQLITE_INTERRUPT: Fault.BUSY,
    sqlite3.SQLITE_IOERR: Fault.IO_ERROR,
    sqlite3.SQLITE_CORRUPT: Fault.CORRUPT,
    sqlite3.SQLITE_FULL: Fault.DISK_FULL,
    sqlite3.SQLITE_CANTOPEN: Fault.CANNOT_OPEN,
    sqlite3.SQLITE_PROTOCOL: Fault.BUSY,
    sqlite3.SQLITE_SCHEMA: Fault.CONFLICT,
    sqlite3.SQLITE_NOLFS: Fault.IO_ERROR,
    sqlite3.SQLITE_AUTH: Fault.NOT_WRITABLE,
    sqlite3.SQLITE_NOTADB: Fault.CORRUPT,
}
"""Codes that are no error of this program. The other ones, such as SQLITE_CONSTRAINT, are 500."""

EXTENDED_CODES: dict[int, Fault] = {
    sqlite3.SQLITE_IOERR_SHORT_READ: Fault.CORRUPT,
    sqlite3.SQLITE_IOERR_NOMEM: Fault.NO_RESOURCES,
    sqlite3.SQLITE_IOERR_DATA: Fault.CORRUPT,
}
"""Codes that differ from their primary code."""

_FLUSH_FAILED = {sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_DIR_FSYNC}
_OTHER_TABLES = re.compile(r"no such (table|column|index)|has no column named|has \d+ columns but")
_ON_DISK = {Fault.IO_ERROR, Fault.CANNOT_OPEN}


def fault_of(
    error: BaseException | None, disk_is_full: Callable[[], bool], disk_is_read_only: Callable[[], bool]
) -> Fault:
    """Classify an error of the driver. For errors of input and output, the disk tells the cause."""
    if isinstance(error, MemoryError):  # the driver raises it for SQLITE_NOMEM
        return Fault.NO_RESOURCES
    code = _code_of(error)
    fault = EXTENDED_CODES.get(code) or PRIMARY_CODES.get(code & 0xFF, Fault.OTHER)
    if fault in _ON_DISK:
        return Fault.DISK_FULL if disk_is_full() else Fault.NOT_WRITABLE if disk_is_read_only() else fault
    if fault is Fault.OTHER and _OTHER_TABLES.search(str(error)):
        return Fault.NO_TABLES
    return fault


def is_rolled_back(error: BaseException | None) -> bool:
    """Return whether an error of COMMIT says that nothing was written.

    If the flush of the write-ahead log fails, the log has the whole transaction already: SQLite rolls it back, but
    after a crash before the next write, it would read it from the log.
    """
    return _code_of(error) not in _FLUSH_FAILED


def _code_of(error: BaseException | None) -> int:
    return getattr(error, "sqlite_errorcode", None) or 0

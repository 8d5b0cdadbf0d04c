"""The classes of database errors, and the error that each is for the client."""

from __future__ import annotations

import enum

from app.errors.broker_error import BrokerError
from app.errors.database import DiskFull, LockTimeout, ServiceUnavailable


class Fault(enum.Enum):
    """The class of a database error, which decides whether the transaction is retried."""

    CONFLICT = "serialization failure, deadlock or stale prepared statement: a retry may succeed"
    BUSY = "lock timeout"
    DISK_FULL = "no space left on the disk"
    DISCONNECTED = "connection lost"
    SILENT = "the server does not answer, but has not closed the connection"
    READ_ONLY = "the server does not accept writes, such as a former primary after a failover"
    NO_SLOT = "all connection slots of the server are taken"
    FORBIDDEN = "the role lacks a right"
    NO_TABLES = "a table is missing"
    OTHER = "an error of this program"


RETRIED = {Fault.CONFLICT, Fault.DISCONNECTED, Fault.READ_ONLY}
"""Before COMMIT, the transaction is run again."""

ERRORS: dict[Fault, tuple[type[BrokerError], str]] = {
    Fault.CONFLICT: (ServiceUnavailable, "the database is busy with conflicting requests; try again"),
    Fault.BUSY: (LockTimeout, "a lock in the database timed out; try again"),
    Fault.DISCONNECTED: (ServiceUnavailable, "the database cannot be reached; try again"),
    Fault.SILENT: (ServiceUnavailable, "the database does not answer; try again"),
    Fault.NO_SLOT: (
        ServiceUnavailable,
        (
            "the database has no free connection slot (too many connections): raise max_connections or the limit of "
            "the role, or run fewer nodes; try again"
        ),
    ),
    Fault.FORBIDDEN: (
        ServiceUnavailable,
        (
            "the role of the database URL lacks a right on the tables; the server's log has the error: grant it, or "
            "run millrace migrate with the same role"
        ),
    ),
    Fault.NO_TABLES: (
        ServiceUnavailable,
        "a table of the database is missing: run millrace migrate, or restore a backup",
    ),
    Fault.READ_ONLY: (ServiceUnavailable, "the database is read-only and accepts no writes; try again"),
    Fault.DISK_FULL: (DiskFull, "the database has no space left; nothing was written"),
}

MISPLACED = (
    "a file of the database was moved, deleted or replaced while the server runs; nothing was written, and the "
    "server's log says what to do"
)

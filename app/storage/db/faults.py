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
    STARTING = "the server starts or shuts down"
    READ_ONLY = "the server does not accept writes, such as a former primary after a failover"
    NO_SLOT = "all connection slots of the server are taken"
    NO_RESOURCES = "memory, locks or another resource is exhausted"
    LOGIN = "the server refuses the user"
    NO_DATABASE = "the server has no database of this name"
    FORBIDDEN = "the role lacks a right"
    NO_TABLES = "a table or a column is missing or has another form"
    ENCODING = "the database is not in UTF8"
    SESSION = "the session is not in the state that this program left it in"
    CORRUPT = "stored data are damaged"
    NOT_WRITABLE = "a file of an embedded database cannot be written"
    CANNOT_OPEN = "a file of an embedded database cannot be opened"
    IO_ERROR = "the system cannot read or write a file of an embedded database"
    FAILED = "an error of the database itself"
    OTHER = "an error of this program"


RETRIED = {Fault.CONFLICT, Fault.DISCONNECTED, Fault.READ_ONLY, Fault.SESSION}
"""Before COMMIT, the transaction is run again."""

RECONNECTED = {Fault.SESSION, Fault.NOT_WRITABLE}
"""The thread closes its connections, because new ones may do without the error."""

_REFUSED: dict[Fault, str] = {
    Fault.CONFLICT: "the database is busy with conflicting requests; try again",
    Fault.DISCONNECTED: "the database cannot be reached; try again",
    Fault.SILENT: "the database does not answer; try again",
    Fault.STARTING: "the database is starting or shutting down; try again",
    Fault.READ_ONLY: "the database is read-only and accepts no writes; try again",
    Fault.NO_SLOT: (
        "the database has no free connection slot (too many connections): raise max_connections or the limit of the "
        "role, or run fewer nodes; try again"
    ),
    Fault.NO_RESOURCES: (
        "the database lacks memory, locks or another resource, or has reached a limit of its settings; the server's "
        "log has the error; try again"
    ),
    Fault.LOGIN: (
        "the database refuses the login; the server's log has the error: correct user and password in "
        "MILLRACE_DATABASE_URL, or pg_hba.conf of PostgreSQL"
    ),
    Fault.NO_DATABASE: (
        "the database does not exist; the server's log has its name: correct MILLRACE_DATABASE_URL, or create the "
        "database and run millrace migrate"
    ),
    Fault.FORBIDDEN: (
        "the role of the database URL lacks a right on the tables; the server's log has the error: grant it, or "
        "run millrace migrate with the same role"
    ),
    Fault.NO_TABLES: (
        "a table or a column of the database is missing or has another form; the server's log has its name: run "
        "millrace migrate of the same release as this server, or restore a backup"
    ),
    Fault.ENCODING: "the database has text that is not in UTF8; the server's log has the error",
    Fault.SESSION: (
        "the session of the database is not in the expected state, as behind a pooler that shares sessions; try again"
    ),
    Fault.CORRUPT: (
        "the database reports damaged data; the server's log has the error: stop the server, copy the files, and "
        "restore a backup or repair the copy (SQLite: PRAGMA integrity_check shows the damage; PostgreSQL: amcheck)"
    ),
    Fault.NOT_WRITABLE: (
        "the database file cannot be written: its file system is mounted read-only, or this user lacks the right to "
        "write the file, its -wal and -shm, and its folder; mend this, and writes resume without a restart"
    ),
    Fault.CANNOT_OPEN: (
        "a file of the database cannot be opened: the process may have no file descriptor left (ulimit -n), or lacks a "
        "right on the file or its folder; try again"
    ),
    Fault.IO_ERROR: (
        "the system cannot read or write the files of the database; the server's log has the error: check the disk "
        "and the file system, and restart the server"
    ),
    Fault.FAILED: "the database reports an error of its own; the server's log has the error; try again",
}

ERRORS: dict[Fault, tuple[type[BrokerError], str]] = {
    **{fault: (ServiceUnavailable, text) for fault, text in _REFUSED.items()},
    Fault.BUSY: (LockTimeout, "a lock in the database timed out; try again"),
    Fault.DISK_FULL: (DiskFull, "the database has no space left; nothing was written"),
}
"""The error of each class for the client. `OTHER` has none: it is 500."""

MISPLACED = (
    "a file of the database was moved, deleted or replaced while the server runs; nothing was written, and the "
    "server's log says what to do"
)

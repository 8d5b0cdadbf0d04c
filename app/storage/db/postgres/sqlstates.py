"""The SQLSTATEs of PostgreSQL: what each class of errors is for a request, and what it says about a commit."""

from __future__ import annotations

import re

import psycopg
from psycopg import errors

from app.storage.db.faults import Fault
from app.storage.db.postgres.pipeline import NotConfirmed, RolledBack, StatementTimedOut

CLASSES: dict[str, Fault] = {
    "00": Fault.OTHER,
    "01": Fault.OTHER,
    "02": Fault.OTHER,
    "03": Fault.OTHER,
    "08": Fault.DISCONNECTED,
    "09": Fault.FAILED,
    "0A": Fault.READ_ONLY,
    "0B": Fault.SESSION,
    "0F": Fault.OTHER,
    "0L": Fault.FORBIDDEN,
    "0P": Fault.FORBIDDEN,
    "0Z": Fault.OTHER,
    "10": Fault.OTHER,
    "20": Fault.OTHER,
    "21": Fault.OTHER,
    "22": Fault.OTHER,
    "23": Fault.OTHER,
    "24": Fault.SESSION,
    "25": Fault.SESSION,
    "26": Fault.CONFLICT,
    "27": Fault.FAILED,
    "28": Fault.LOGIN,
    "2B": Fault.OTHER,
    "2D": Fault.SESSION,
    "2F": Fault.FAILED,
    "34": Fault.SESSION,
    "38": Fault.FAILED,
    "39": Fault.FAILED,
    "3B": Fault.SESSION,
    "3D": Fault.NO_DATABASE,
    "3F": Fault.NO_TABLES,
    "40": Fault.CONFLICT,
    "42": Fault.OTHER,
    "44": Fault.OTHER,
    "53": Fault.NO_RESOURCES,
    "54": Fault.NO_RESOURCES,
    "55": Fault.FAILED,
    "57": Fault.DISCONNECTED,
    "58": Fault.FAILED,
    "72": Fault.CONFLICT,
    "F0": Fault.FAILED,
    "HV": Fault.FAILED,
    "P0": Fault.FAILED,
    "XX": Fault.FAILED,
}
"""The first two characters of a SQLSTATE. `OTHER`, an error of this program, is 500; a test has every class."""

STATES: dict[str, Fault] = {
    "22021": Fault.ENCODING,
    "22P05": Fault.ENCODING,
    "25006": Fault.READ_ONLY,
    "25P03": Fault.DISCONNECTED,
    "25P04": Fault.DISCONNECTED,
    "40003": Fault.DISCONNECTED,
    "42501": Fault.FORBIDDEN,
    "42703": Fault.NO_TABLES,
    "42704": Fault.NO_TABLES,
    "42804": Fault.NO_TABLES,
    "42883": Fault.NO_TABLES,
    "42P01": Fault.NO_TABLES,
    "42P05": Fault.SESSION,
    "42P10": Fault.NO_TABLES,
    "53100": Fault.DISK_FULL,
    "53300": Fault.NO_SLOT,
    "55006": Fault.BUSY,
    "55P03": Fault.BUSY,
    "57014": Fault.BUSY,
    "57P03": Fault.STARTING,
    "57P04": Fault.NO_DATABASE,
    "XX001": Fault.CORRUPT,
    "XX002": Fault.CORRUPT,
}
"""States that differ from their class."""

_ON_CONNECTING = [
    (re.compile(pattern), sqlstate)
    for pattern, sqlstate in (
        (r"too many (clients|connections)|remaining connection slots|no more connections allowed", "53300"),
        (r"authentication failed|no password supplied|pg_hba\.conf|no such user", "28000"),
        (r'role ".*" (does not exist|is not permitted)', "28000"),
        (r"permission denied for database", "42501"),
        (r'database ".*" (does not exist|has disappeared)|no such database', "3D000"),
        (r'database ".*" is not currently accepting connections', "55000"),
        (r"the database system is (starting|shutting|in recovery|not (yet )?accepting)", "57P03"),
        (r"session is (read-only|not read-write)|server is in hot standby", "25006"),
    )
]
"""psycopg has no SQLSTATE of an error on connecting. Only servers with English messages are understood."""

_STALE_PLAN = "RevalidateCachedQuery"
"""The function of the server that refuses a stale prepared statement, in all versions."""
_OUTCOME_UNKNOWN = ("08", "40003", "58000")
"""What poolers, and servers of other makers, answer when they have lost the server that commits."""


class WrongEncoding(psycopg.OperationalError):
    """The database is not in UTF8."""


def fault_of(error: BaseException | None) -> Fault:
    """Classify an error of the driver, or of this program."""
    if isinstance(error, StatementTimedOut | errors.ConnectionTimeout):
        return Fault.SILENT
    if isinstance(error, WrongEncoding):
        return Fault.ENCODING
    if isinstance(error, MemoryError):
        return Fault.NO_RESOURCES
    sqlstate = sqlstate_of(error)
    if sqlstate is None:
        is_lost = isinstance(error, psycopg.OperationalError) or type(error) is psycopg.DatabaseError
        return Fault.DISCONNECTED if is_lost else Fault.OTHER
    if isinstance(error, errors.FeatureNotSupported) and error.diag.source_function == _STALE_PLAN:
        return Fault.CONFLICT
    return STATES.get(sqlstate) or CLASSES.get(sqlstate[:2], Fault.FAILED)


def sqlstate_of(error: BaseException | None) -> str | None:
    """Return the SQLSTATE of an error, also of one on connecting. None if the connection was lost."""
    if not isinstance(error, psycopg.Error) or isinstance(error, NotConfirmed):
        return None
    if error.sqlstate is None and isinstance(error, psycopg.OperationalError):
        text = str(error)
        return next((sqlstate for pattern, sqlstate in _ON_CONNECTING if pattern.search(text)), None)
    return error.sqlstate


def is_rolled_back(error: BaseException | None) -> bool:
    """Return whether an error of COMMIT, or of a statement in its round trip, says that nothing was written.

    An ERROR of the server aborts the transaction. FATAL and PANIC end the session at any moment, also after the commit.
    """
    if isinstance(error, RolledBack):
        return True
    if not isinstance(error, psycopg.Error) or error.diag.severity_nonlocalized != "ERROR":
        return False
    return not (error.sqlstate or "08").startswith(_OUTCOME_UNKNOWN)

"""Check a whole database in one read transaction."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import DBAPIError

from app.storage.db.opening import Snapshot
from app.storage.db.schema import HEAD
from app.storage.verification.groups import check_groups
from app.storage.verification.log import CheckedLog, check_log
from app.storage.verification.producers import check_idempotency_keys, check_producers
from app.storage.verification.queues import check_queues
from app.storage.verification.report import Report
from app.storage.verification.webhooks import check_sources, check_webhooks

T = TypeVar("T")

_VERSION = text("SELECT version_num FROM alembic_version")
_FAILED_TRANSACTION = "25P02"
_INTEGRITY = text("PRAGMA integrity_check(20)")


def revision_of(snapshot: Snapshot) -> str | None:
    """Return the revision of the tables, or None if the database is not one of this program."""
    if not inspect(snapshot.connection).has_table("alembic_version"):
        return None
    return snapshot.connection.execute(_VERSION).scalar_one_or_none()


def check_integrity(snapshot: Snapshot, report: Report) -> None:
    """Let the database check its own structure, where it has a command for that."""
    if snapshot.database != "sqlite":
        return
    for (line,) in _guarded(report, lambda: snapshot.connection.execute(_INTEGRITY).all()) or ():
        report.require(line == "ok", "DAMAGED", "PRAGMA integrity_check", str(line))


def verify(snapshot: Snapshot, report: Report) -> None:
    """Check everything, and add what is inconsistent to the report.

    Raises:
        ValueError: The tables are not those of this release.
    """
    revision = revision_of(snapshot)
    if revision is None:
        raise ValueError(f"{snapshot.location} is not a database of Millrace: it has no tables of it")
    if revision != HEAD:
        raise ValueError(
            f"the database is at revision {revision} and this release verifies {HEAD}: use the release that wrote it, "
            "or run millrace migrate first"
        )
    check_integrity(snapshot, report)
    connection = snapshot.connection
    log = _guarded(report, lambda: check_log(connection, report))
    if log is not None:
        _check_state(connection, log, report)
    _guarded(report, lambda: check_sources(connection, report))


def _check_state(connection: Connection, log: CheckedLog, report: Report) -> None:
    _guarded(report, lambda: check_producers(connection, log, report))
    _guarded(report, lambda: check_idempotency_keys(connection, log, report))
    _guarded(report, lambda: check_groups(connection, log, report))
    share_partitions = _guarded(report, lambda: check_queues(connection, log, report))
    if share_partitions is not None:
        _guarded(report, lambda: check_webhooks(connection, log, share_partitions, report))


def _guarded(report: Report, check: Callable[[], T]) -> T | None:
    """Run a check; an error of the database while it reads is damage."""
    try:
        return check()
    except DBAPIError as error:
        if error.connection_invalidated:
            raise
        if getattr(error.orig, "sqlstate", None) == _FAILED_TRANSACTION:
            return None  # the error that made it fail is in the report
        report.add("DAMAGED", "the database", str(error.orig).strip().partition("\n")[0])
        return None

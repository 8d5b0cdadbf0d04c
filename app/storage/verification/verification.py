"""Check a whole database in one read transaction."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from sqlalchemy import inspect, text
from sqlalchemy.exc import DBAPIError

from app.storage.db.faults import Fault
from app.storage.db.opening import Snapshot
from app.storage.db.schema import HEAD
from app.storage.verification.access import check_access
from app.storage.verification.groups import check_groups
from app.storage.verification.log import check_log
from app.storage.verification.producers import check_idempotency_keys, check_producers
from app.storage.verification.queues import check_queues
from app.storage.verification.report import Report
from app.storage.verification.webhooks import check_sources, check_webhooks

_VERSION = text("SELECT version_num FROM alembic_version")
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
    with damage_reported(snapshot, report):
        for (line,) in snapshot.connection.execute(_INTEGRITY):
            report.require(line == "ok", "DAMAGED", "PRAGMA integrity_check", str(line))


def verify(snapshot: Snapshot, report: Report) -> None:
    """Check everything, and add what is inconsistent to the report.

    Raises:
        ValueError: The tables are not those of this release.
        DBAPIError: The database cannot be read, for a reason other than damage.
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
    with damage_reported(snapshot, report):
        check_sources(connection, report)
        check_access(connection, report)
        log = check_log(connection, report)
        check_producers(connection, log, report)
        check_idempotency_keys(connection, log, report)
        check_groups(connection, log, report)
        share_partitions = check_queues(connection, log, report)
        check_webhooks(connection, log, share_partitions, report)


@contextlib.contextmanager
def damage_reported(snapshot: Snapshot, report: Report) -> Iterator[None]:
    """Report an error by which the database says that its data is damaged. The checks end there."""
    try:
        yield
    except DBAPIError as error:
        if snapshot.fault(error) is not Fault.CORRUPT:
            raise
        report.add("DAMAGED", "the database", str(error.orig).strip().partition("\n")[0])

"""What a backup contains, in numbers."""

from __future__ import annotations

from sqlalchemy import func, inspect, or_, select

from app.storage.db.opening import Snapshot
from app.storage.db.tables import partitions, records
from app.storage.sources.tables import sources
from app.storage.webhooks.tables import webhooks

_RECORDS = select(func.count()).select_from(records)
_PARTITIONS = select(func.count()).select_from(partitions)
_SOURCES = select(sources.c.source_id).where(sources.c.secret.is_not(None)).limit(1)
_WEBHOOKS = (
    select(webhooks.c.webhook_id).where(or_(webhooks.c.secret.is_not(None), webhooks.c.headers.is_not(None))).limit(1)
)


def count_records(snapshot: Snapshot) -> tuple[int, int]:
    """Return the number of records and of partitions."""
    connection = snapshot.connection
    return connection.execute(_RECORDS).scalar_one(), connection.execute(_PARTITIONS).scalar_one()


def has_secrets(snapshot: Snapshot) -> bool:
    """Return whether something is encrypted with the key of secrets."""
    present = inspect(snapshot.connection).get_table_names()  # a backup of an older release has fewer tables
    statements = [(sources, _SOURCES), (webhooks, _WEBHOOKS)]
    return any(
        snapshot.connection.execute(statement).first() is not None
        for table, statement in statements
        if table.name in present
    )

"""The tables of webhooks."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, LargeBinary, SmallInteger, Table, Text

from app.storage.db.tables import ID, NAME, metadata

node_leases = Table(
    "node_leases",
    metadata,
    Column("node_id", Text, primary_key=True),
    Column("until_ms", BigInteger, nullable=False),
)
"""The running nodes of a PostgreSQL database. What a node holds is free once its lease has ended."""

webhooks = Table(
    "webhooks",
    metadata,
    Column("webhook_id", ID, primary_key=True, autoincrement=True),
    Column("name", NAME, nullable=False, unique=True),
    Column("config", Text, nullable=False),
    Column("secret", LargeBinary),
    Column("previous_secret", LargeBinary),
    Column("previous_until_ms", BigInteger, nullable=False),
    Column("headers", LargeBinary),
    Column("version", BigInteger, nullable=False),
    Column("disabled_reason", Text),
    Column("disabled_at_ms", BigInteger),
    Column("breaker", LargeBinary, nullable=False),
    Column("held_until_ms", BigInteger, nullable=False),
    Column("delivered", BigInteger, nullable=False),
    Column("filtered", BigInteger, nullable=False),
    Column("dead_lettered", BigInteger, nullable=False),
    Column("dropped", BigInteger, nullable=False),
    Column("last_delivered_at_ms", BigInteger),
    Column("last_failed_at_ms", BigInteger),
    Column("holder", Text),
    Column("epoch", BigInteger, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("owner", NAME),
    Column("owner_is_admin", Boolean, nullable=False),
    sqlite_autoincrement=True,
)
"""Secrets and headers are encrypted. `version` rises with each change, `epoch` with each new holder, the node that
works the webhook."""

webhook_attempts = Table(
    "webhook_attempts",
    metadata,
    Column("attempt_id", ID, primary_key=True, autoincrement=True),
    Column("webhook_id", BigInteger, nullable=False),
    Column("delivered", SmallInteger, nullable=False),
    Column("message_id", Text, nullable=False),
    Column("topic", Text),
    Column("partition", Integer),
    Column("offset", BigInteger),
    Column("attempt", Integer, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("duration_ms", BigInteger, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("status", Integer),
    Column("error", Text),
    Column("response_headers", LargeBinary),
    Column("response_body", LargeBinary),
    Column("next_attempt_at_ms", BigInteger),
    Index("ix_webhook_attempts_webhook_id", "webhook_id", "attempt_id"),
    Index("ix_webhook_attempts_delivered", "webhook_id", "delivered", "attempt_id"),
    Index("ix_webhook_attempts_record", "webhook_id", "topic", "partition", "offset", "attempt_id"),
    sqlite_autoincrement=True,
)
"""The last attempts of each webhook; those of a batch have one row per record."""

webhook_replays = Table(
    "webhook_replays",
    metadata,
    Column("replay_id", ID, primary_key=True, autoincrement=True),
    Column("webhook_id", BigInteger, nullable=False),
    Column("plan", LargeBinary, nullable=False),
    Column("progress", LargeBinary, nullable=False),
    Column("state", Text, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("ended_at_ms", BigInteger),
    Index("ix_webhook_replays_webhook_id", "webhook_id", "replay_id"),
    sqlite_autoincrement=True,
)
"""Ranges of records that are sent again to one webhook."""

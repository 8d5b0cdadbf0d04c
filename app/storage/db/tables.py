"""All tables, one definition for both databases.

A record has one integer as its id: the id of its partition above OFFSET_BITS bits of offset. One b-tree then
serves SQLite (as its rowid) and PostgreSQL, and a partition is a range of it. The view `log` shows partition and
offset of each record.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
)

OFFSET_BITS = 42
"""4.4 * 10^12 offsets in a partition."""

PARTITION_ID_BITS = 21
"""2,097,151 partitions per database, deleted ones included."""

OFFSET_MASK = (1 << OFFSET_BITS) - 1


def first_record_id(partition_id: int) -> int:
    """Return the `record_id` of offset 0 of a partition."""
    return partition_id << OFFSET_BITS


def log_end_of(log_start_offset: int, last_record_id: int | None) -> int:
    """Return the log end offset of a partition by the `record_id` of its last record, or None without records."""
    if last_record_id is None:
        return log_start_offset
    return max(log_start_offset, (last_record_id & OFFSET_MASK) + 1)


metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

ID = BigInteger().with_variant(Integer, "sqlite")

NAME = Text().with_variant(Text(collation="C"), "postgresql")
"""Ordered by bytes, so that lists have the same order in both databases."""

topics = Table(
    "topics",
    metadata,
    Column("topic_id", ID, primary_key=True, autoincrement=True),
    Column("name", NAME, nullable=False, unique=True),
    Column("version", BigInteger, nullable=False),
    Column("config", Text, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    sqlite_autoincrement=True,
)

partitions = Table(
    "partitions",
    metadata,
    Column("partition_id", ID, primary_key=True, autoincrement=True),
    Column("topic_id", BigInteger, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("log_start_offset", BigInteger, nullable=False),
    Column("start_bytes", BigInteger, nullable=False),
    Column("compacted_bytes", BigInteger, nullable=False),
    UniqueConstraint("topic_id", "partition"),
    CheckConstraint(f"partition_id < {1 << PARTITION_ID_BITS}", name="partition_id_bits"),
    sqlite_autoincrement=True,
)
"""`start_bytes`: bytes of all records before `log_start_offset`. `compacted_bytes`: bytes of the records from there on
that compaction has deleted."""

records = Table(
    "records",
    metadata,
    Column("record_id", ID, primary_key=True, autoincrement=False),
    Column("timestamp_ms", BigInteger, nullable=False),
    Column("encoding", SmallInteger, nullable=False),
    Column("key", LargeBinary),
    Column("value", LargeBinary),
    Column("headers", LargeBinary),
    Column("start_bytes", BigInteger, nullable=False),
    Column("max_timestamp_ms", BigInteger, nullable=False),
)
"""Rows are never updated. `start_bytes`: bytes of the records before this one in the partition. `max_timestamp_ms`: the
largest timestamp up to this record. Both rise with the offset, so bisection finds sizes and times without an index or
a counter row that each append would update."""

purges = Table(
    "purges",
    metadata,
    Column("partition_id", ID, primary_key=True, autoincrement=False),
    Column("before_offset", BigInteger, nullable=False),
)
"""Rows below `before_offset` are no longer in the log and are deleted in the background."""

compactions = Table(
    "compactions",
    metadata,
    Column("partition_id", ID, primary_key=True, autoincrement=False),
    Column("cleaned_offset", BigInteger, nullable=False),
)
"""Below `cleaned_offset` each key has one record."""

compacted_keys = Table(
    "compacted_keys",
    metadata,
    Column("partition_id", ID, primary_key=True, autoincrement=False),
    Column("key_hash", LargeBinary, primary_key=True),
    Column("offset", BigInteger, nullable=False),
    Column("tombstone_seen_at_ms", BigInteger),
    Index("ix_compacted_keys_offset", "partition_id", "offset"),
    Index("ix_compacted_keys_tombstone", "partition_id", "tombstone_seen_at_ms"),
)
"""The latest record of each key below `cleaned_offset`. `key_hash`: SHA-256 of the key, which may be too long for an
index."""

producers = Table(
    "producers",
    metadata,
    Column("producer_id", NAME, primary_key=True),
    Column("producer_epoch", BigInteger, nullable=False),
    Column("updated_at_ms", BigInteger, nullable=False),
    Index("ix_producers_updated", "updated_at_ms"),
)

producer_topics = Table(
    "producer_topics",
    metadata,
    Column("producer_id", NAME, primary_key=True),
    Column("topic_id", BigInteger, primary_key=True, autoincrement=False),
    Column("producer_epoch", BigInteger, nullable=False),
    Column("next_sequence", BigInteger, nullable=False),
    Column("window", LargeBinary, nullable=False),
    Column("updated_at_ms", BigInteger, nullable=False),
    Index("ix_producer_topics_topic", "topic_id"),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("topic_id", BigInteger, primary_key=True, autoincrement=False),
    Column("key_hash", LargeBinary, primary_key=True),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("result", LargeBinary),
    Column("created_at_ms", BigInteger, nullable=False),
    Index("ix_idempotency_keys_created", "created_at_ms"),
)

consumer_groups = Table(
    "consumer_groups",
    metadata,
    Column("group_id", ID, primary_key=True, autoincrement=True),
    Column("name", NAME, nullable=False, unique=True),
    Column("group_epoch", BigInteger, nullable=False),
    Column("assignment_epoch", BigInteger, nullable=False),
    Column("assigned_at_ms", BigInteger, nullable=False),
    Column("assign_at_ms", BigInteger),
    Column("empty_since_ms", BigInteger),
    Column("details", LargeBinary, nullable=False),
    Index("ix_consumer_groups_assign", "assign_at_ms"),
    Index("ix_consumer_groups_empty", "empty_since_ms"),
    sqlite_autoincrement=True,
)
"""`details`: MessagePack of the fields that are only read together with the members."""

group_members = Table(
    "group_members",
    metadata,
    Column("group_id", BigInteger, primary_key=True, autoincrement=False),
    Column("member_id", NAME, primary_key=True),
    Column("member_epoch", BigInteger, nullable=False),
    Column("settled", SmallInteger, key="reconciled", nullable=False),
    Column("session_timeout_ms", BigInteger, nullable=False),
    Column("deadline_ms", BigInteger, nullable=False),
    Column("revoke_deadline_ms", BigInteger),
    Column("details", LargeBinary, nullable=False),
    Column("last_poll", LargeBinary),
    Index("ix_group_members_deadline", "deadline_ms"),
    Index("ix_group_members_revoke_deadline", "revoke_deadline_ms"),
)
"""`reconciled`: whether the member owns its whole target assignment and has nothing to revoke. `details`: MessagePack
of the member. `last_poll`: MessagePack of the end of its last poll, which the next poll may commit."""

group_offsets = Table(
    "group_offsets",
    metadata,
    Column("group_id", BigInteger, primary_key=True, autoincrement=False),
    Column("topic_id", BigInteger, primary_key=True, autoincrement=False),
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("committed_offset", BigInteger, nullable=False),
    Column("metadata", Text, nullable=False),
    Column("committed_at_ms", BigInteger, nullable=False),
)

group_rebalances = Table(
    "group_rebalances",
    metadata,
    Column("group_id", BigInteger, primary_key=True, autoincrement=False),
    Column("group_epoch", BigInteger, primary_key=True, autoincrement=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("reasons", Text, nullable=False),
    Column("targets", LargeBinary, nullable=False),
)
"""The last assignments of each group. `targets`: JSON of the target assignment of each member, with topics by name."""

group_ticks = Table(
    "group_ticks",
    metadata,
    Column("ticked_at_ms", BigInteger, nullable=False),
)
"""One row: the time of the last check of sessions by any node. Sessions do not expire while no node checks."""

clock_ticks = Table(
    "clock_ticks",
    metadata,
    Column("ticked_at_ms", BigInteger, nullable=False),
    Column("grace_began_at_ms", BigInteger),
    Column("checked_at_ms", BigInteger, nullable=False),
)
"""One row: the last check of the clock by any node. See `app/domain/log/clock_tick.py`. `checked_at_ms` is its time by
the clock of deadlines, which on SQLite is monotonic while a process runs."""

queues = Table(
    "queues",
    metadata,
    Column("queue_id", ID, primary_key=True, autoincrement=True),
    Column("name", NAME, nullable=False, unique=True),
    Column("topic_id", BigInteger, nullable=False),
    Column("dead_letter_topic_id", BigInteger),
    Column("config", Text, nullable=False),
    Column("redriven", LargeBinary),
    Column("created_at_ms", BigInteger, nullable=False),
    sqlite_autoincrement=True,
)
"""`redriven`: the offset up to which each partition of dead-letter topics has been redriven."""

queue_partitions = Table(
    "queue_partitions",
    metadata,
    Column("queue_id", BigInteger, primary_key=True, autoincrement=False),
    Column("partition_id", BigInteger, primary_key=True, autoincrement=False),
    Column("end_offset", BigInteger, nullable=False),
    Column("entries", LargeBinary, nullable=False),
    Column("delayed", BigInteger, nullable=False),
    Column("accepted", BigInteger, nullable=False),
    Column("archived", BigInteger, nullable=False),
    Column("expired", BigInteger, nullable=False),
    Column("archive_at_ms", BigInteger),
    Column("delayed_archive_at_ms", BigInteger),
    Column("dead_letter_error", Text),
    Column("refused_offset", BigInteger),
    Column("reference_count", BigInteger, nullable=False, server_default="0"),
    Index("ix_queue_partitions_archive_at_ms", "archive_at_ms"),
    Index("ix_queue_partitions_delayed_archive_at_ms", "delayed_archive_at_ms"),
)
"""The share partitions of queues. Records from `end_offset` on have not been acquired. Records before it have ended,
except the records in flight (`entries`, MessagePack) and the rows of `delayed_records`. Most updates change no column
with an index, so that PostgreSQL updates the row in place."""

webhook_retries = Table(
    "webhook_retries",
    metadata,
    Column("queue_id", BigInteger, primary_key=True, autoincrement=False),
    Column("partition_id", BigInteger, primary_key=True, autoincrement=False),
    Column("offset", BigInteger, primary_key=True, autoincrement=False),
    Column("attempts", BigInteger, nullable=False),
)
"""Charged attempts of the records that failed and have not ended; -1 for an exhausted one that waits for its end."""

delayed_records = Table(
    "delayed_records",
    metadata,
    Column("queue_id", BigInteger, primary_key=True, autoincrement=False),
    Column("partition_id", BigInteger, primary_key=True, autoincrement=False),
    Column("offset", BigInteger, primary_key=True, autoincrement=False),
    Column("state", SmallInteger, nullable=False),
    Column("delivery_count", Integer, nullable=False),
    Column("until_ms", BigInteger, nullable=False),
    Column("key_hash", BigInteger, nullable=False),
    Column("timestamp_ms", BigInteger, nullable=False),
    Column("encoding", SmallInteger, nullable=False),
    Column("key", LargeBinary),
    Column("value", LargeBinary),
    Column("headers", LargeBinary),
    Column("blocked_by_key", SmallInteger, nullable=False, server_default="0"),
    Index("ix_delayed_records_until", "queue_id", "partition_id", "blocked_by_key", "state", "until_ms", "offset"),
    Index("ix_delayed_records_key", "queue_id", "partition_id", "key_hash", "blocked_by_key", "offset"),
)
"""Copies of delayed records, which are delivered when they are due even if retention has deleted the record. In a queue
ordered by key, `blocked_by_key` is 1 for a record with an earlier delayed record of the same key, else 0: only the
first record of a key is delivered. A row with the encoding -1 is a reference to a record in the log that waits behind
a delayed record of its key; it has no copy, and its record is put in flight again before it is delivered."""

queue_archives = Table(
    "queue_archives",
    metadata,
    Column("queue_id", BigInteger, primary_key=True, autoincrement=False),
    Column("partition_id", BigInteger, primary_key=True, autoincrement=False),
    Column("offset", BigInteger, primary_key=True, autoincrement=False),
    Column("delivery_count", Integer, nullable=False),
    Column("reason", Text, nullable=False),
    Column("archived_at_ms", BigInteger, nullable=False),
    Index("ix_queue_archives_at", "queue_id", "partition_id", "archived_at_ms"),
)
"""The records archived last, for browsing."""

nodes = Table(
    "nodes",
    metadata,
    Column("node_id", Text, primary_key=True),
    Column("details", Text, nullable=False),
    Column("started_at_ms", BigInteger, nullable=False),
    Column("seen_at_ms", BigInteger, nullable=False),
)
"""The nodes of a PostgreSQL database, each with the time at which it was last seen. `details`: JSON."""

"""Create the log: topics, partitions, records, and the tables of retention, compaction and idempotence.

Revision ID: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_NAME = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")

_LOG_VIEW = """
CREATE VIEW log AS
SELECT t.name AS topic,
       p.partition AS partition,
       r.record_id - (p.partition_id << 42) AS "offset",
       {timestamp} AS "timestamp",
       r.timestamp_ms AS timestamp_ms,
       CASE WHEN (r.encoding & 4) <> 0 OR {key_has_nul} THEN {key_hex} ELSE {key_text} END AS key,
       CASE WHEN (r.encoding & 3) = 2 OR {value_has_nul} THEN {value_hex} ELSE {value_text} END AS value,
       CASE WHEN (r.encoding & 3) = 2 OR {value_has_nul} THEN 'hex'
            WHEN (r.encoding & 3) = 1 THEN 'text' ELSE 'json' END AS value_encoding,
       {headers_text} AS headers
FROM topics t
JOIN partitions p ON p.topic_id = t.topic_id
JOIN records r ON r.record_id >= (p.partition_id << 42) + p.log_start_offset
              AND r.record_id < ((p.partition_id + 1) << 42)
"""

_SQLITE = {
    "timestamp": "strftime('%Y-%m-%dT%H:%M:%fZ', r.timestamp_ms / 1000.0, 'unixepoch')",
    "key_has_nul": "instr(r.key, x'00') > 0",
    "key_hex": "lower(hex(r.key))",
    "key_text": "CAST(r.key AS TEXT)",
    "value_has_nul": "instr(r.value, x'00') > 0",
    "value_hex": "lower(hex(r.value))",
    "value_text": "CAST(r.value AS TEXT)",
    "headers_text": "CAST(r.headers AS TEXT)",
}
_POSTGRES = {
    "timestamp": "to_timestamp(r.timestamp_ms / 1000.0)",
    "key_has_nul": "position('\\x00'::bytea in r.key) > 0",
    "key_hex": "encode(r.key, 'hex')",
    "key_text": "convert_from(r.key, 'UTF8')",
    "value_has_nul": "position('\\x00'::bytea in r.value) > 0",
    "value_hex": "encode(r.value, 'hex')",
    "value_text": "convert_from(r.value, 'UTF8')",
    "headers_text": "convert_from(r.headers, 'UTF8')",
}

_AUTOVACUUM = """
ALTER TABLE records SET (
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 10000,
    autovacuum_vacuum_insert_scale_factor = 0.02, autovacuum_vacuum_cost_limit = 2000
)
"""

_TABLES = (
    "topics",
    "records",
    "purges",
    "producers",
    "producer_topics",
    "partitions",
    "idempotency_keys",
    "compactions",
    "compacted_keys",
)


def upgrade() -> None:
    op.create_table(
        "compacted_keys",
        sa.Column("partition_id", _ID, autoincrement=False, nullable=False),
        sa.Column("key_hash", sa.LargeBinary(), nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False),
        sa.Column("tombstone_seen_at_ms", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("partition_id", "key_hash", name="pk_compacted_keys"),
    )
    op.create_index("ix_compacted_keys_offset", "compacted_keys", ["partition_id", "offset"])
    op.create_index("ix_compacted_keys_tombstone", "compacted_keys", ["partition_id", "tombstone_seen_at_ms"])
    op.create_table(
        "compactions",
        sa.Column("partition_id", _ID, autoincrement=False, nullable=False),
        sa.Column("cleaned_offset", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("partition_id", name="pk_compactions"),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("topic_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("key_hash", sa.LargeBinary(), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("result", sa.LargeBinary(), nullable=True),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("topic_id", "key_hash", name="pk_idempotency_keys"),
    )
    op.create_index("ix_idempotency_keys_created", "idempotency_keys", ["created_at_ms"])
    op.create_table(
        "partitions",
        sa.Column("partition_id", _ID, autoincrement=True, nullable=False),
        sa.Column("topic_id", sa.BigInteger(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("log_start_offset", sa.BigInteger(), nullable=False),
        sa.Column("start_bytes", sa.BigInteger(), nullable=False),
        sa.Column("compacted_bytes", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("partition_id < 2097152", name="ck_partitions_partition_id_bits"),
        sa.PrimaryKeyConstraint("partition_id", name="pk_partitions"),
        sa.UniqueConstraint("topic_id", "partition", name="uq_partitions_topic_id_partition"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "producer_topics",
        sa.Column("producer_id", _NAME, nullable=False),
        sa.Column("topic_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("producer_epoch", sa.BigInteger(), nullable=False),
        sa.Column("next_sequence", sa.BigInteger(), nullable=False),
        sa.Column("window", sa.LargeBinary(), nullable=False),
        sa.Column("updated_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("producer_id", "topic_id", name="pk_producer_topics"),
    )
    op.create_index("ix_producer_topics_topic", "producer_topics", ["topic_id"])
    op.create_table(
        "producers",
        sa.Column("producer_id", _NAME, nullable=False),
        sa.Column("producer_epoch", sa.BigInteger(), nullable=False),
        sa.Column("updated_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("producer_id", name="pk_producers"),
    )
    op.create_index("ix_producers_updated", "producers", ["updated_at_ms"])
    op.create_table(
        "purges",
        sa.Column("partition_id", _ID, autoincrement=False, nullable=False),
        sa.Column("before_offset", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("partition_id", name="pk_purges"),
    )
    op.create_table(
        "records",
        sa.Column("record_id", _ID, autoincrement=False, nullable=False),
        sa.Column("timestamp_ms", sa.BigInteger(), nullable=False),
        sa.Column("encoding", sa.SmallInteger(), nullable=False),
        sa.Column("key", sa.LargeBinary(), nullable=True),
        sa.Column("value", sa.LargeBinary(), nullable=True),
        sa.Column("headers", sa.LargeBinary(), nullable=True),
        sa.Column("start_bytes", sa.BigInteger(), nullable=False),
        sa.Column("max_timestamp_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("record_id", name="pk_records"),
    )
    op.create_table(
        "topics",
        sa.Column("topic_id", _ID, autoincrement=True, nullable=False),
        sa.Column("name", _NAME, nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("config", sa.Text(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("topic_id", name="pk_topics"),
        sa.UniqueConstraint("name", name="uq_topics_name"),
        sqlite_autoincrement=True,
    )

    on_postgres = op.get_bind().dialect.name == "postgresql"
    op.execute(_LOG_VIEW.format(**(_POSTGRES if on_postgres else _SQLITE)))
    if on_postgres:
        op.execute(_AUTOVACUUM)


def downgrade() -> None:
    op.execute("DROP VIEW log")
    for table in _TABLES:
        op.drop_table(table)

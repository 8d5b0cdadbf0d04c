"""Create queues: their share partitions, delayed records, and the last archived records.

Revision ID: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_NAME = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")

_FREE_SPACE_IN_PAGES = """
ALTER TABLE queue_partitions SET (
    fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000
)
"""


def upgrade() -> None:
    op.create_table(
        "queues",
        sa.Column("queue_id", _ID, autoincrement=True, nullable=False),
        sa.Column("name", _NAME, nullable=False),
        sa.Column("topic_id", sa.BigInteger(), nullable=False),
        sa.Column("dead_letter_topic_id", sa.BigInteger(), nullable=True),
        sa.Column("config", sa.Text(), nullable=False),
        sa.Column("redriven", sa.LargeBinary(), nullable=True),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("queue_id", name="pk_queues"),
        sa.UniqueConstraint("name", name="uq_queues_name"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "queue_partitions",
        sa.Column("queue_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("partition_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("end_offset", sa.BigInteger(), nullable=False),
        sa.Column("entries", sa.LargeBinary(), nullable=False),
        sa.Column("copies", sa.BigInteger(), nullable=False),
        sa.Column("accepted", sa.BigInteger(), nullable=False),
        sa.Column("archived", sa.BigInteger(), nullable=False),
        sa.Column("expired", sa.BigInteger(), nullable=False),
        sa.Column("archive_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("copies_archive_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("dead_letter_error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("queue_id", "partition_id", name="pk_queue_partitions"),
    )
    op.create_table(
        "queue_copies",
        sa.Column("queue_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("partition_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("offset", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("state", sa.SmallInteger(), nullable=False),
        sa.Column("delivery_count", sa.Integer(), nullable=False),
        sa.Column("until_ms", sa.BigInteger(), nullable=False),
        sa.Column("key_hash", sa.BigInteger(), nullable=False),
        sa.Column("timestamp_ms", sa.BigInteger(), nullable=False),
        sa.Column("encoding", sa.SmallInteger(), nullable=False),
        sa.Column("key", sa.LargeBinary(), nullable=True),
        sa.Column("value", sa.LargeBinary(), nullable=True),
        sa.Column("headers", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("queue_id", "partition_id", "offset", name="pk_queue_copies"),
    )
    op.create_index("ix_queue_copies_until", "queue_copies", ["queue_id", "partition_id", "until_ms"])
    op.create_index("ix_queue_copies_key", "queue_copies", ["queue_id", "partition_id", "key_hash", "offset"])
    op.create_table(
        "queue_archives",
        sa.Column("queue_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("partition_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("offset", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("delivery_count", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("archived_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("queue_id", "partition_id", "offset", name="pk_queue_archives"),
    )
    op.create_index("ix_queue_archives_at", "queue_archives", ["queue_id", "partition_id", "archived_at_ms"])
    if op.get_bind().dialect.name == "postgresql":
        op.execute(_FREE_SPACE_IN_PAGES)


def downgrade() -> None:
    for table in ("queue_archives", "queue_copies", "queue_partitions", "queues"):
        op.drop_table(table)

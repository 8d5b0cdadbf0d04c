"""Rename the table and the columns of delayed records, and the column of a member's last poll.

Nodes of the previous release fail after this migration: stop them before it.

Revision ID: 0005
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_COLUMNS = (
    ("delayed_records", "behind", "blocked_by_key"),
    ("queue_partitions", "copies", "delayed"),
    ("queue_partitions", "copies_archive_at_ms", "delayed_archive_at_ms"),
    ("group_members", "handed_out", "last_poll"),
)
_SHARE_PARTITION = ["queue_id", "partition_id"]
_INDEXES = (
    (
        "delayed_records",
        "ix_queue_copies_until",
        "ix_delayed_records_until",
        [*_SHARE_PARTITION, "blocked_by_key", "state", "until_ms", "offset"],
    ),
    (
        "delayed_records",
        "ix_queue_copies_key",
        "ix_delayed_records_key",
        [*_SHARE_PARTITION, "key_hash", "blocked_by_key", "offset"],
    ),
    (
        "queue_partitions",
        "ix_queue_partitions_copies_archive_at_ms",
        "ix_queue_partitions_delayed_archive_at_ms",
        ["delayed_archive_at_ms"],
    ),
)


def upgrade() -> None:
    op.rename_table("queue_copies", "delayed_records")
    for table, old, new in _COLUMNS:
        op.execute(f"ALTER TABLE {table} RENAME COLUMN {old} TO {new}")
    for table, old, new, columns in _INDEXES:
        _rename_index(table, old, new, columns)


def downgrade() -> None:
    for table, old, new, columns in _INDEXES:
        _rename_index(table, new, old, columns)
    for table, old, new in _COLUMNS:
        op.execute(f"ALTER TABLE {table} RENAME COLUMN {new} TO {old}")
    op.rename_table("delayed_records", "queue_copies")


def _rename_index(table: str, old: str, new: str, columns: list[str]) -> None:
    """Rename an index. SQLite has no statement for this, so the index is created again."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute(f"ALTER INDEX {old} RENAME TO {new}")
    else:
        op.drop_index(old, table_name=table)
        op.create_index(new, table, columns)

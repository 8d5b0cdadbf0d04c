"""Mark delayed records that are blocked by their key, index share partitions by the time to archive, and store the
offset of a refused dead letter.

Revision ID: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_MARK_BLOCKED = """
UPDATE queue_copies SET behind = 1
WHERE key_hash <> 0 AND EXISTS (
    SELECT 1 FROM queue_copies AS earlier
    WHERE earlier.queue_id = queue_copies.queue_id AND earlier.partition_id = queue_copies.partition_id
    AND earlier.key_hash = queue_copies.key_hash AND earlier."offset" < queue_copies."offset"
)
"""
_SHARE_PARTITION = ["queue_id", "partition_id"]
_UNTIL = "ix_queue_copies_until"
_KEY = "ix_queue_copies_key"
_DUE = ("archive_at_ms", "copies_archive_at_ms")


def upgrade() -> None:
    op.add_column("queue_copies", sa.Column("behind", sa.SmallInteger(), nullable=False, server_default="0"))
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ANALYZE queue_copies")
    op.execute(_MARK_BLOCKED)
    for name in (_UNTIL, _KEY):
        op.drop_index(name, table_name="queue_copies")
    op.create_index(_UNTIL, "queue_copies", [*_SHARE_PARTITION, "behind", "state", "until_ms", "offset"])
    op.create_index(_KEY, "queue_copies", [*_SHARE_PARTITION, "key_hash", "behind", "offset"])
    op.add_column("queue_partitions", sa.Column("refused_offset", sa.BigInteger(), nullable=True))
    for column in _DUE:
        op.create_index(f"ix_queue_partitions_{column}", "queue_partitions", [column])


def downgrade() -> None:
    for column in _DUE:
        op.drop_index(f"ix_queue_partitions_{column}", table_name="queue_partitions")
    op.drop_column("queue_partitions", "refused_offset")
    for name in (_UNTIL, _KEY):
        op.drop_index(name, table_name="queue_copies")
    op.create_index(_UNTIL, "queue_copies", [*_SHARE_PARTITION, "until_ms"])
    op.create_index(_KEY, "queue_copies", [*_SHARE_PARTITION, "key_hash", "offset"])
    op.drop_column("queue_copies", "behind")

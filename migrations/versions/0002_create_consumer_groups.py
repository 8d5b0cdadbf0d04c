"""Create consumer groups: members, committed offsets, and the last assignments.

Revision ID: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_NAME = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "consumer_groups",
        sa.Column("group_id", _ID, autoincrement=True, nullable=False),
        sa.Column("name", _NAME, nullable=False),
        sa.Column("group_epoch", sa.BigInteger(), nullable=False),
        sa.Column("assignment_epoch", sa.BigInteger(), nullable=False),
        sa.Column("assigned_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("assign_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("empty_since_ms", sa.BigInteger(), nullable=True),
        sa.Column("details", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("group_id", name="pk_consumer_groups"),
        sa.UniqueConstraint("name", name="uq_consumer_groups_name"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_consumer_groups_assign", "consumer_groups", ["assign_at_ms"])
    op.create_index("ix_consumer_groups_empty", "consumer_groups", ["empty_since_ms"])
    op.create_table(
        "group_members",
        sa.Column("group_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("member_id", _NAME, nullable=False),
        sa.Column("member_epoch", sa.BigInteger(), nullable=False),
        sa.Column("settled", sa.SmallInteger(), nullable=False),
        sa.Column("session_timeout_ms", sa.BigInteger(), nullable=False),
        sa.Column("deadline_ms", sa.BigInteger(), nullable=False),
        sa.Column("revoke_deadline_ms", sa.BigInteger(), nullable=True),
        sa.Column("details", sa.LargeBinary(), nullable=False),
        sa.Column("handed_out", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("group_id", "member_id", name="pk_group_members"),
    )
    op.create_index("ix_group_members_deadline", "group_members", ["deadline_ms"])
    op.create_index("ix_group_members_revoke_deadline", "group_members", ["revoke_deadline_ms"])
    op.create_table(
        "group_offsets",
        sa.Column("group_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("topic_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("partition", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("committed_offset", sa.BigInteger(), nullable=False),
        sa.Column("metadata", sa.Text(), nullable=False),
        sa.Column("committed_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("group_id", "topic_id", "partition", name="pk_group_offsets"),
    )
    op.create_table(
        "group_rebalances",
        sa.Column("group_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("group_epoch", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("reasons", sa.Text(), nullable=False),
        sa.Column("targets", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("group_id", "group_epoch", name="pk_group_rebalances"),
    )
    ticks = op.create_table("group_ticks", sa.Column("ticked_at_ms", sa.BigInteger(), nullable=False))
    op.bulk_insert(ticks, [{"ticked_at_ms": 0}])


def downgrade() -> None:
    for table in ("group_ticks", "group_rebalances", "group_offsets", "group_members", "consumer_groups"):
        op.drop_table(table)

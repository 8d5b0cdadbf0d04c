"""Create webhooks: their queues, retries, attempts and replays, and the leases of nodes.

Revision ID: 0008
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_NAME = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "node_leases",
        sa.Column("node_id", sa.Text(), nullable=False),
        sa.Column("until_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("node_id", name="pk_node_leases"),
    )
    op.create_table(
        "webhooks",
        sa.Column("webhook_id", _ID, autoincrement=True, nullable=False),
        sa.Column("name", _NAME, nullable=False),
        sa.Column("config", sa.Text(), nullable=False),
        sa.Column("secret", sa.LargeBinary()),
        sa.Column("previous_secret", sa.LargeBinary()),
        sa.Column("previous_until_ms", sa.BigInteger(), nullable=False),
        sa.Column("headers", sa.LargeBinary()),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("disabled_reason", sa.Text()),
        sa.Column("disabled_at_ms", sa.BigInteger()),
        sa.Column("breaker", sa.LargeBinary(), nullable=False),
        sa.Column("held_until_ms", sa.BigInteger(), nullable=False),
        sa.Column("delivered", sa.BigInteger(), nullable=False),
        sa.Column("filtered", sa.BigInteger(), nullable=False),
        sa.Column("dead_lettered", sa.BigInteger(), nullable=False),
        sa.Column("dropped", sa.BigInteger(), nullable=False),
        sa.Column("last_delivered_at_ms", sa.BigInteger()),
        sa.Column("last_failed_at_ms", sa.BigInteger()),
        sa.Column("holder", sa.Text()),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("webhook_id", name="pk_webhooks"),
        sa.UniqueConstraint("name", name="uq_webhooks_name"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "webhook_retries",
        sa.Column("queue_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("partition_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("offset", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("attempts", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("queue_id", "partition_id", "offset", name="pk_webhook_retries"),
    )
    op.create_table(
        "webhook_attempts",
        sa.Column("attempt_id", _ID, autoincrement=True, nullable=False),
        sa.Column("webhook_id", sa.BigInteger(), nullable=False),
        sa.Column("delivered", sa.SmallInteger(), nullable=False),
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("topic", sa.Text()),
        sa.Column("partition", sa.Integer()),
        sa.Column("offset", sa.BigInteger()),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("duration_ms", sa.BigInteger(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("status", sa.Integer()),
        sa.Column("error", sa.Text()),
        sa.Column("response_headers", sa.LargeBinary()),
        sa.Column("response_body", sa.LargeBinary()),
        sa.Column("next_attempt_at_ms", sa.BigInteger()),
        sa.PrimaryKeyConstraint("attempt_id", name="pk_webhook_attempts"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_webhook_attempts_webhook_id", "webhook_attempts", ["webhook_id", "attempt_id"])
    op.create_index("ix_webhook_attempts_delivered", "webhook_attempts", ["webhook_id", "delivered", "attempt_id"])
    op.create_index(
        "ix_webhook_attempts_record", "webhook_attempts", ["webhook_id", "topic", "partition", "offset", "attempt_id"]
    )
    op.create_table(
        "webhook_replays",
        sa.Column("replay_id", _ID, autoincrement=True, nullable=False),
        sa.Column("webhook_id", sa.BigInteger(), nullable=False),
        sa.Column("plan", sa.LargeBinary(), nullable=False),
        sa.Column("progress", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("ended_at_ms", sa.BigInteger()),
        sa.PrimaryKeyConstraint("replay_id", name="pk_webhook_replays"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_webhook_replays_webhook_id", "webhook_replays", ["webhook_id", "replay_id"])


def downgrade() -> None:
    for table in ("webhook_replays", "webhook_attempts", "webhook_retries", "webhooks", "node_leases"):
        op.drop_table(table)

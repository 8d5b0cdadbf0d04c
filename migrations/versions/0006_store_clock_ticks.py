"""Store the last check of the clock.

Revision ID: 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    ticks = op.create_table(
        "clock_ticks",
        sa.Column("ticked_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("grace_began_at_ms", sa.BigInteger()),
        sa.Column("checked_at_ms", sa.BigInteger(), nullable=False),
    )
    op.bulk_insert(ticks, [{"ticked_at_ms": 0, "grace_began_at_ms": None, "checked_at_ms": 0}])


def downgrade() -> None:
    op.drop_table("clock_ticks")

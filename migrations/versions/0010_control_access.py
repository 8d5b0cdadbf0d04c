"""Control access: API keys, access control lists, tokens of streams, and the owners of webhooks.

Revision ID: 0010
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
NAME = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("key_id", NAME, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("principal", NAME, nullable=False),
        sa.Column("is_admin", sa.Boolean(), nullable=False),
        sa.Column("secret_hash", sa.LargeBinary(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger()),
        sa.Column("last_used_at_ms", sa.BigInteger()),
        sa.Column("revoked_at_ms", sa.BigInteger()),
        sa.PrimaryKeyConstraint("key_id", name=op.f("pk_api_keys")),
    )
    op.create_table(
        "acls",
        sa.Column("acl_id", ID, autoincrement=True, nullable=False),
        sa.Column("principal", NAME, nullable=False),
        sa.Column("permission", sa.Text(), nullable=False),
        sa.Column("operation", sa.Text(), nullable=False),
        sa.Column("resource_type", sa.Text(), nullable=False),
        sa.Column("resource_name", NAME, nullable=False),
        sa.Column("pattern", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("acl_id", name=op.f("pk_acls")),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "uq_acls",
        "acls",
        ["principal", "permission", "operation", "resource_type", "resource_name", "pattern", "host"],
        unique=True,
    )
    op.create_table(
        "access_versions",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_access_versions_one_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_access_versions")),
    )
    op.execute("INSERT INTO access_versions (id, version) VALUES (1, 0)")
    op.create_table(
        "stream_tokens",
        sa.Column("token_hash", sa.LargeBinary(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("principal", NAME, nullable=False),
        sa.Column("is_admin", sa.Boolean(), nullable=False),
        sa.Column("key_id", sa.Text()),
        sa.Column("principal_until_ms", sa.BigInteger()),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("token_hash", name=op.f("pk_stream_tokens")),
    )
    op.create_index("ix_stream_tokens_expires", "stream_tokens", ["expires_at_ms"])
    op.add_column("webhooks", sa.Column("owner", NAME))
    op.add_column("webhooks", sa.Column("owner_is_admin", sa.Boolean(), nullable=False, server_default=sa.false()))


def downgrade() -> None:
    op.drop_column("webhooks", "owner_is_admin")
    op.drop_column("webhooks", "owner")
    op.drop_table("stream_tokens")
    op.drop_table("access_versions")
    op.drop_table("acls")
    op.drop_table("api_keys")

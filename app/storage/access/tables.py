"""The tables of access control."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, CheckConstraint, Column, Index, Integer, LargeBinary, Table, Text

from app.storage.db.tables import ID, NAME, metadata

api_keys = Table(
    "api_keys",
    metadata,
    Column("key_id", NAME, primary_key=True),
    Column("name", Text, nullable=False),
    Column("principal", NAME, nullable=False),
    Column("is_admin", Boolean, nullable=False),
    Column("secret_hash", LargeBinary, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("expires_at_ms", BigInteger),
    Column("last_used_at_ms", BigInteger),
    Column("revoked_at_ms", BigInteger),
)
"""`secret_hash`: SHA-256 of the secret. Revoked keys stay: a server that ever had a key never accepts requests without
one."""

acls = Table(
    "acls",
    metadata,
    Column("acl_id", ID, primary_key=True, autoincrement=True),
    Column("principal", NAME, nullable=False),
    Column("permission", Text, nullable=False),
    Column("operation", Text, nullable=False),
    Column("resource_type", Text, nullable=False),
    Column("resource_name", NAME, nullable=False),
    Column("pattern", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Index(
        "uq_acls",
        "principal",
        "permission",
        "operation",
        "resource_type",
        "resource_name",
        "pattern",
        "host",
        unique=True,
    ),
    sqlite_autoincrement=True,
)

access_versions = Table(
    "access_versions",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("version", BigInteger, nullable=False),
    CheckConstraint("id = 1", name="one_row"),
)
"""One row. Each change of a key or an access control list raises `version`, so that the nodes drop their caches."""

stream_tokens = Table(
    "stream_tokens",
    metadata,
    Column("token_hash", LargeBinary, primary_key=True),
    Column("target", Text, nullable=False),
    Column("principal", NAME, nullable=False),
    Column("is_admin", Boolean, nullable=False),
    Column("key_id", Text),
    Column("principal_until_ms", BigInteger),
    Column("expires_at_ms", BigInteger, nullable=False),
    Index("ix_stream_tokens_expires", "expires_at_ms"),
)
"""`target`: the path and query for which the token is valid. A token is deleted when it is used.
`principal_until_ms`: when what proved the principal expires."""

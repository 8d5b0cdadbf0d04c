"""The tables of sources."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, LargeBinary, Table, Text

from app.storage.db.tables import ID, NAME, metadata

sources = Table(
    "sources",
    metadata,
    Column("source_id", ID, primary_key=True, autoincrement=True),
    Column("name", NAME, nullable=False, unique=True),
    Column("config", Text, nullable=False),
    Column("secret", LargeBinary),
    Column("previous_secret", LargeBinary),
    Column("previous_until_ms", BigInteger, nullable=False),
    Column("verify_token", LargeBinary),
    Column("created_at_ms", BigInteger, nullable=False),
    sqlite_autoincrement=True,
)
"""Secrets are encrypted; `verify_token` is the encrypted token of a challenge, or the hash of the token in the path."""

source_refusals = Table(
    "source_refusals",
    metadata,
    Column("refusal_id", ID, primary_key=True, autoincrement=True),
    Column("source_id", BigInteger, nullable=False),
    Column("refused_at_ms", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    Column("address", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Index("ix_source_refusals_source_id", "source_id", "refusal_id"),
    sqlite_autoincrement=True,
)
"""The last refused deliveries of each source."""

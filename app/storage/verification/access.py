"""Check API keys and tokens of streams."""

from __future__ import annotations

from sqlalchemy import Connection, select

from app.storage.access.tables import access_versions, acls, api_keys, stream_tokens
from app.storage.verification.log import rows_of
from app.storage.verification.report import Report

_HASH_BYTES = 32
_PERMISSIONS = {"allow", "deny"}

_VERSIONS = select(access_versions.c.version)
_KEYS = select(api_keys.c.key_id, api_keys.c.secret_hash)
_TOKENS = select(stream_tokens.c.key_id).where(stream_tokens.c.key_id.is_not(None)).distinct()
_ACLS = select(acls.c.acl_id, acls.c.principal, acls.c.permission)


def check_access(connection: Connection, report: Report) -> None:
    """Check what decides about access: the rows that the nodes compare their caches with, keys, entries and tokens."""
    versions = list(connection.scalars(_VERSIONS))
    report.require(len(versions) == 1, "ACCESS", "access_versions", f"it has {len(versions)} rows")
    known = set()
    for key_id, secret_hash in rows_of(connection, _KEYS):
        report.checked["api_keys"] += 1
        known.add(key_id)
        report.require(len(secret_hash) == _HASH_BYTES, "ACCESS", f"key {key_id}", "its hash is not SHA-256")
    for acl_id, principal, permission in rows_of(connection, _ACLS):
        report.checked["acls"] += 1
        detail = f"it neither allows nor denies: {permission}"
        report.require(permission in _PERMISSIONS, "ACCESS", f"entry {acl_id} of {principal}", detail)
    for key_id in connection.scalars(_TOKENS):
        report.require(key_id in known, "ORPHAN", f"key {key_id}", "tokens of streams of no key")

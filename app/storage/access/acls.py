"""Access control lists."""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import bindparam, delete, func, insert, select

from app.domain.access.acl import Acl, Resource
from app.storage.access.tables import acls
from app.storage.db.transaction import Tx

_COLUMNS = (
    acls.c.principal,
    acls.c.permission,
    acls.c.operation,
    acls.c.resource_type,
    acls.c.resource_name,
    acls.c.pattern,
    acls.c.host,
)
_ALL = select(*_COLUMNS)
_LIST = (
    select(acls.c.acl_id, acls.c.created_at_ms, *_COLUMNS)
    .where(acls.c.acl_id > bindparam("after"))
    .order_by(acls.c.acl_id)
    .limit(bindparam("n"))
)
_FIND = select(acls.c.acl_id, acls.c.created_at_ms).where(
    *(column == bindparam(f"p_{column.name}") for column in _COLUMNS)
)
_COUNT = select(func.count()).select_from(acls)
_DELETE = delete(acls).where(acls.c.acl_id == bindparam("id"))


class StoredAcl(NamedTuple):
    """An entry with its id."""

    acl_id: int
    created_at_ms: int
    acl: Acl


def load(tx: Tx) -> list[Acl]:
    """Return all entries."""
    return [_acl(row) for row in tx.connection.execute(_ALL)]


def list_(tx: Tx, after: int, limit: int) -> list[StoredAcl]:
    """Return up to `limit` entries in order of their ids, from the first above `after`."""
    rows = tx.connection.execute(_LIST, {"after": after, "n": limit})
    return [StoredAcl(acl_id, created_at_ms, _acl(columns)) for acl_id, created_at_ms, *columns in rows]


def count(tx: Tx) -> int:
    """Return the number of entries."""
    found: int = tx.connection.execute(_COUNT).scalar_one()
    return found


def find(tx: Tx, acl: Acl) -> StoredAcl | None:
    """Return the entry that is equal, or None."""
    row = tx.connection.execute(_FIND, {f"p_{name}": value for name, value in _values(acl).items()}).one_or_none()
    return None if row is None else StoredAcl(*row, acl)


def insert_acl(tx: Tx, acl: Acl, now_ms: int) -> StoredAcl:
    """Store a new entry."""
    acl_id: int = tx.connection.execute(
        insert(acls).returning(acls.c.acl_id), _values(acl) | {"created_at_ms": now_ms}
    ).scalar_one()
    return StoredAcl(acl_id, now_ms, acl)


def delete_(tx: Tx, acl_id: int) -> bool:
    """Delete an entry, and return whether there was one."""
    return tx.connection.execute(_DELETE, {"id": acl_id}).rowcount > 0


def _values(acl: Acl) -> dict[str, Any]:
    return {
        "principal": acl.principal,
        "permission": acl.permission,
        "operation": acl.operation,
        "resource_type": acl.resource.type,
        "resource_name": acl.resource.name,
        "pattern": acl.resource.pattern,
        "host": acl.host,
    }


def _acl(row: Any) -> Acl:  # noqa: ANN401 - a row of `_COLUMNS`
    principal, permission, operation, resource_type, resource_name, pattern, host = row
    return Acl(principal, permission, operation, Resource(resource_type, resource_name, pattern), host)

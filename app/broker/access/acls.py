"""Access control lists: create, list and delete their entries."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from ipaddress import ip_address

import msgspec

from app.broker.access.access_control import MAX_NAME_CHARACTERS
from app.domain.access.acl import CLUSTER, Acl
from app.domain.access.addresses import canonical_address
from app.domain.access.principal import error_of
from app.errors.access import AccessLimit, InvalidAcl, UnknownAcl
from app.storage.access import acls, keys
from app.storage.access.acls import StoredAcl
from app.storage.db.engine import Storage
from app.storage.db.transaction import Tx


class Acls:
    """The access control lists of an installation.

    Args:
        clock: Wall clock in milliseconds.
        max_acls: The maximum number of entries: each node holds all in memory.
        on_change: Applies a change at this node at once.
    """

    def __init__(
        self, storage: Storage, clock: Callable[[], int], max_acls: int, on_change: Callable[[], Awaitable[None]]
    ) -> None:
        self._storage = storage
        self._clock = clock
        self._max_acls = max_acls
        self._on_change = on_change

    async def create(self, acl: Acl) -> tuple[StoredAcl, bool]:
        """Create an entry, or confirm that it exists. Return it and whether it is new.

        Raises:
            InvalidAcl: A field is not valid.
            AccessLimit: There are too many entries.
        """
        _check(acl)
        acl = msgspec.structs.replace(acl, host=canonical_address(acl.host))
        stored, is_new = await self._storage.write(_create, acl, self._clock(), self._max_acls)
        await self._on_change()
        return stored, is_new

    async def list_(self, after: int, limit: int) -> list[StoredAcl]:
        """Return up to `limit` entries in order of their ids, from the first above `after`."""
        return await self._storage.read(acls.list_, after, limit)

    async def delete(self, acl_id: int) -> None:
        """Delete an entry, on this node at once, and on the others within five seconds.

        Raises:
            UnknownAcl: There is no entry of this id.
        """
        await self._storage.write(_delete, acl_id)
        await self._on_change()


def _create(tx: Tx, acl: Acl, now_ms: int, max_acls: int) -> tuple[StoredAcl, bool]:
    keys.raise_version(tx)
    if (found := acls.find(tx, acl)) is not None:
        return found, False
    if acls.count(tx) >= max_acls:
        raise AccessLimit(f"there are {max_acls} entries, the maximum (MILLRACE_MAX_ACLS); delete some")
    return acls.insert_acl(tx, acl, now_ms), True


def _delete(tx: Tx, acl_id: int) -> None:
    keys.raise_version(tx)
    if not acls.delete_(tx, acl_id):
        raise UnknownAcl("there is no entry of this id; GET /v1/acls lists them")


def _check(acl: Acl) -> None:
    if acl.principal != "*" and (wrong := error_of(acl.principal)) is not None:
        raise InvalidAcl.at(None, "principal", f"{wrong}, or be * for all principals")
    resource = acl.resource
    if resource.type == CLUSTER and (resource.name != CLUSTER or resource.pattern != "literal"):
        raise InvalidAcl.at(None, "resource.name", 'must be "cluster", with the pattern "literal"')
    if not 1 <= len(resource.name) <= MAX_NAME_CHARACTERS or not resource.name.isascii():
        raise InvalidAcl.at(None, "resource.name", f"must be 1 to {MAX_NAME_CHARACTERS} ASCII characters, or * for all")
    if resource.type == CLUSTER and acl.operation in {"read", "write", "delete"}:
        raise InvalidAcl.at(None, "operation", "must be create, alter, describe or all: nothing reads a cluster")
    if resource.pattern == "literal" and "*" in resource.name and resource.name != "*":
        detail = 'must be a whole name, or * for all; for names that begin alike use the pattern "prefixed", without *'
        raise InvalidAcl.at(None, "resource.name", detail)
    if resource.pattern == "prefixed" and "*" in resource.name:
        raise InvalidAcl.at(None, "resource.name", "must be a prefix without *; the literal * stands for all names")
    if acl.host != "*":
        try:
            ip_address(acl.host)
        except ValueError:
            raise InvalidAcl.at(None, "host", "must be an IP address, or * for all addresses") from None

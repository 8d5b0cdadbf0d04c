"""Clients of a server that needs keys, each of one principal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httpx2

ADMIN_KEY = "admin-key-of-the-tests-0123456789abcdef"


class Principals:
    """Makes principals with their keys and rights, by the API."""

    def __init__(self, client: httpx2.AsyncClient) -> None:
        self._client = client
        self.admin = {"Authorization": f"Bearer {ADMIN_KEY}"}

    async def key(self, principal: str, **fields: Any) -> str:
        body = {"name": f"key of {principal}", "principal": principal} | fields
        created = await self._client.post("/v1/keys", json=body, headers=self.admin)
        assert created.status_code == 201, created.text
        return str(created.json()["key"])

    async def add(self, principal: str, *rights: tuple[str, str, str], **fields: Any) -> dict[str, str]:
        """Create a principal with rights, each an operation, a type and a name. Return the headers of its key."""
        for operation, kind, name in rights:
            await self.allow(principal, operation, kind, name)
        return {"Authorization": f"Bearer {await self.key(principal, **fields)}"}

    async def allow(self, principal: str, operation: str, kind: str, name: str, **fields: Any) -> str:
        resource = {"type": kind, "name": name}
        body = {"principal": principal, "operation": operation, "resource": resource} | fields
        made = await self._client.post("/v1/acls", json=body, headers=self.admin)
        assert made.status_code in {200, 201}, made.text
        return str(made.json()["acl_id"])

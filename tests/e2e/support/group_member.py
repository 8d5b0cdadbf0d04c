"""A group member whose calls a test makes one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.waiting import until

if TYPE_CHECKING:
    import httpx2

Assignment = list[tuple[str, int]]


class GroupMember:
    """A member of a group; each call names the node that it goes to."""

    def __init__(self, group: str, member_id: str) -> None:
        self.group = group
        self.member_id = member_id
        self.epoch = -1

    @property
    def path(self) -> str:
        return f"/v1/groups/{self.group}/members/{self.member_id}"

    async def join(self, client: httpx2.AsyncClient, *topics: str, **options: Any) -> Assignment:
        """Join the group, and return the assignment."""
        document = {"topics": list(topics), "member_id": self.member_id} | options
        return self.accept(await client.post(f"/v1/groups/{self.group}/members", json=document))

    async def heartbeat(self, client: httpx2.AsyncClient, owned: Assignment | None = None) -> Assignment:
        """Send a heartbeat, and return the assignment."""
        document: dict[str, Any] = {"member_epoch": self.epoch}
        if owned is not None:
            document["owned"] = [{"topic": topic, "partitions": [number]} for topic, number in sorted(owned)]
        return self.accept(await client.post(f"{self.path}/heartbeat", json=document))

    async def poll(self, client: httpx2.AsyncClient, **options: Any) -> dict[str, Any]:
        """Poll, and return the whole answer."""
        answer = await client.post(f"{self.path}/poll", json={"member_epoch": self.epoch} | options)
        self.accept(answer)
        document: dict[str, Any] = answer.json()
        return document

    async def leave(self, client: httpx2.AsyncClient) -> None:
        """Leave the group."""
        answer = await client.delete(self.path)
        assert answer.status_code == 204, answer.text

    def accept(self, answer: httpx2.Response) -> Assignment:
        """Take the epoch of an answer, and return its assignment."""
        assert answer.status_code in {200, 201}, answer.text
        document = answer.json()
        self.epoch = document["member_epoch"]
        return partitions_in(document["assignment"])

    async def reconcile(self, client: httpx2.AsyncClient, number: int, seconds: float = 30) -> Assignment:
        """Send heartbeats that own what is assigned, until that is `number` partitions and the others are revoked."""
        owned = await self.heartbeat(client)

        async def next_assignment() -> Assignment:
            nonlocal owned
            owned = await self.heartbeat(client, owned)
            return owned

        await until(next_assignment, lambda found: len(found) == number, seconds)
        return await next_assignment()


def partitions_in(assignment: list[dict[str, Any]]) -> Assignment:
    """Return an assignment as pairs of topic and partition."""
    return [(one["topic"], partition) for one in assignment for partition in one["partitions"]]


async def describe(client: httpx2.AsyncClient, group: str) -> dict[str, Any]:
    """Describe a group."""
    answer = await client.get(f"/v1/groups/{group}")
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


async def await_assignment(client: httpx2.AsyncClient, group: str) -> dict[str, Any]:
    """Wait until the assignment is as new as the group, and return the group's description."""
    return await until(lambda: describe(client, group), lambda found: found["assignment_epoch"] == found["group_epoch"])

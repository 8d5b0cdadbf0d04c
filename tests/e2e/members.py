"""What the tests of frozen and stopped nodes say to a group, call by call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.e2e.node import until

if TYPE_CHECKING:
    import httpx2

Assignment = list[tuple[str, int]]


class Member:
    """A member of a group that speaks to whichever node it is told to."""

    def __init__(self, group: str, member_id: str) -> None:
        self.group = group
        self.member_id = member_id
        self.epoch = -1

    @property
    def path(self) -> str:
        return f"/v1/groups/{self.group}/members/{self.member_id}"

    async def join(self, client: httpx2.AsyncClient, *topics: str, **wish: Any) -> Assignment:
        """Join."""
        document = {"topics": list(topics), "member_id": self.member_id} | wish
        return self.stand(await client.post(f"/v1/groups/{self.group}/members", json=document))

    async def beat(self, client: httpx2.AsyncClient, owned: Assignment | None = None) -> Assignment:
        """Beat."""
        document: dict[str, Any] = {"member_epoch": self.epoch}
        if owned is not None:
            document["owned"] = [{"topic": topic, "partitions": [number]} for topic, number in sorted(owned)]
        return self.stand(await client.post(f"{self.path}/heartbeat", json=document))

    async def poll(self, client: httpx2.AsyncClient, **more: Any) -> dict[str, Any]:
        """Poll, and return the whole answer."""
        answer = await client.post(f"{self.path}/poll", json={"member_epoch": self.epoch} | more)
        self.stand(answer)
        document: dict[str, Any] = answer.json()
        return document

    async def leave(self, client: httpx2.AsyncClient) -> None:
        """Leave."""
        answer = await client.delete(self.path)
        assert answer.status_code == 204, answer.text

    def stand(self, answer: httpx2.Response) -> Assignment:
        """Take an answer's epoch and return its assignment."""
        assert answer.status_code in {200, 201}, answer.text
        document = answer.json()
        self.epoch = document["member_epoch"]
        return partitions_in(document["assignment"])

    async def settle(self, client: httpx2.AsyncClient, number: int, seconds: float = 30) -> Assignment:
        """Beat, owning what is assigned, until that is so many partitions and all others are given up."""
        held = await self.beat(client)

        async def look() -> Assignment:
            nonlocal held
            held = await self.beat(client, held)
            return held

        await until(look, lambda found: len(found) == number, seconds)
        return await look()


def partitions_in(assignment: list[dict[str, Any]]) -> Assignment:
    """Return an assignment as pairs of topic and partition."""
    return [(one["topic"], partition) for one in assignment for partition in one["partitions"]]


async def described(client: httpx2.AsyncClient, group: str) -> dict[str, Any]:
    """Describe a group."""
    answer = await client.get(f"/v1/groups/{group}")
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


async def stable(client: httpx2.AsyncClient, group: str) -> dict[str, Any]:
    """Wait until a group has computed its newest assignment."""
    return await until(
        lambda: described(client, group), lambda found: found["assignment_epoch"] == found["group_epoch"]
    )

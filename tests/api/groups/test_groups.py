"""Groups over HTTP: list, describe, rebalances, delete."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import httpx2

pytestmark = pytest.mark.anyio

GROUP = "/v1/groups/billing"
ALICE = {"topics": ["orders"], "member_id": "alice", "client_id": "till 1"}


async def join(client: httpx2.AsyncClient, name: str = "alice", group: str = "billing", **fields: Any) -> Any:
    body = ALICE | {"member_id": name} | fields
    response = await client.post(f"/v1/groups/{group}/members", json=body)
    assert response.status_code in {200, 201}, response.text
    return response.json()


async def test_a_group_is_described_with_its_members(client: httpx2.AsyncClient) -> None:
    await client.put("/v1/topics/orders", json={"partitions": 2})
    await join(client)

    response = await client.get(GROUP)

    assert response.status_code == 200
    found = response.json()
    (member,) = found.pop("members")
    joined_at_ms, heartbeat_at_ms = member.pop("joined_at_ms"), member.pop("last_heartbeat_ms")
    assert joined_at_ms == heartbeat_at_ms > 1_600_000_000_000
    assert found == {"name": "billing", "state": "STABLE", "group_epoch": 1, "assignment_epoch": 1}
    assert member == {
        "member_id": "alice",
        "client_id": "till 1",
        "instance_id": None,
        "member_epoch": 1,
        "state": "STABLE",
        "topics": ["orders"],
        "topic_pattern": None,
        "assignment": [{"topic": "orders", "partitions": [0, 1]}],
        "revoking": [],
        "session_timeout_ms": 45_000,
    }


async def test_groups_are_listed_in_pages_by_name(client: httpx2.AsyncClient) -> None:
    for group in ("c", "a", "B", "d.e"):
        await join(client, group=group)

    first = (await client.get("/v1/groups?limit=3")).json()
    second = (await client.get(f"/v1/groups?limit=3&cursor={first['next_cursor']}")).json()

    assert [group["name"] for group in first["items"]] == ["B", "a", "c"]
    assert second == {
        "items": [{"name": "d.e", "state": "STABLE", "group_epoch": 1, "assignment_epoch": 1, "members": 1}],
        "next_cursor": None,
    }


@pytest.mark.parametrize(("query", "status"), [("limit=0", 422), ("limit=1001", 422), ("cursor=!", 400), ("x=1", 422)])
async def test_an_invalid_list_query_is_refused(sqlite_client: httpx2.AsyncClient, query: str, status: int) -> None:
    assert (await sqlite_client.get(f"/v1/groups?{query}")).status_code == status


async def test_rebalances_have_time_reasons_and_assignments(client: httpx2.AsyncClient) -> None:
    await client.put("/v1/topics/orders", json={"partitions": 2})
    await join(client)

    (one,) = (await client.get(f"{GROUP}/rebalances")).json()["rebalances"]

    assert one.pop("at_ms") > 1_600_000_000_000
    assert one == {
        "group_epoch": 1,
        "reasons": ["member_joined"],
        "moved_partitions": 0,
        "members": [
            {"member_id": "alice", "before": [], "after": [{"topic": "orders", "partitions": [0, 1]}]},
        ],
    }


async def test_a_group_without_members_is_deleted(client: httpx2.AsyncClient) -> None:
    await join(client)
    refused = await client.delete(GROUP)
    await client.delete(f"{GROUP}/members/alice")

    assert (refused.status_code, refused.json()["code"], refused.json()["members"]) == (409, "NON_EMPTY_GROUP", 1)
    assert (await client.delete(GROUP)).status_code == 204
    for gone in (await client.delete(GROUP), await client.get(GROUP), await client.get(f"{GROUP}/rebalances")):
        assert (gone.status_code, gone.json()["code"]) == (404, "GROUP_ID_NOT_FOUND")


NAMES = ["a%20b", "a%00b", "%2E%2E", "x" * 250, "%C3%A9", "%FF", "billing%00"]
PATHS = [
    ("GET", ""), ("DELETE", ""), ("GET", "/rebalances"), ("GET", "/offsets"), ("POST", "/members"),
    ("POST", "/members/alice/heartbeat"), ("POST", "/members/alice/poll"), ("GET", "/members/alice"),
    ("DELETE", "/members/alice"), ("POST", "/offsets"), ("POST", "/offsets/reset"),
]  # fmt: skip
BODIES: dict[str, Any] = {
    "/members": ALICE,
    "/members/alice/heartbeat": {"member_epoch": 1},
    "/members/alice/poll": {"member_epoch": 1},
    "/offsets": {"offsets": [{"topic": "orders", "partition": 0, "offset": 0}]},
    "/offsets/reset": {"topic": "orders", "to": "earliest"},
}


@pytest.mark.parametrize("name", NAMES, ids=lambda name: name[:10])
async def test_an_invalid_group_or_member_name_is_422_on_every_path(client: httpx2.AsyncClient, name: str) -> None:
    await client.put("/v1/topics/orders")
    await join(client)
    for method, path in PATHS:
        body = {} if method != "POST" else {"json": BODIES[path]}
        response = await client.request(method, f"/v1/groups/{name}{path}", **body)

        assert (response.status_code, response.json()["code"]) == (422, "INVALID_GROUP_ID"), (method, path)
        if "alice" in path:
            response = await client.request(method, GROUP + path.replace("alice", name), **body)
            assert (response.status_code, response.json()["code"]) == (422, "INVALID_REQUEST"), (method, path)
    assert [one["name"] for one in (await client.get("/v1/groups")).json()["items"]] == ["billing"]

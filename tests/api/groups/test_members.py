"""Members over HTTP: join, heartbeat, leave."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import httpx2

    from tests.serving import Serve

pytestmark = pytest.mark.anyio

MEMBERS = "/v1/groups/billing/members"
ALICE = {"topics": ["orders"], "member_id": "alice"}
ALL = [{"topic": "orders", "partitions": [0, 1]}]


def code(response: httpx2.Response) -> tuple[int, str]:
    return response.status_code, response.json()["code"]


async def test_a_join_is_answered_with_the_free_partitions(client: httpx2.AsyncClient) -> None:
    await client.put("/v1/topics/orders", json={"partitions": 2})

    first = await client.post(MEMBERS, json=ALICE)
    again = await client.post(MEMBERS, json=ALICE)

    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == {
        "member_id": "alice",
        "member_epoch": 1,
        "assignment": ALL,
        "state": "STABLE",
        "session_timeout_ms": 45_000,
        "heartbeat_interval_ms": 5_000,
    }
    assert again.json() == first.json() | {"member_epoch": 2}
    assert code(await client.post(f"{MEMBERS}/alice/heartbeat", json={"member_epoch": 1})) == (
        409, "FENCED_MEMBER_EPOCH",
    )  # fmt: skip


async def test_the_server_generates_a_missing_member_id(sqlite_client: httpx2.AsyncClient) -> None:
    joined = [(await sqlite_client.post(MEMBERS, json={"topics": ["orders"]})).json() for _ in range(2)]

    assert len({one["member_id"] for one in joined}) == 2
    assert (await sqlite_client.get(f"{MEMBERS}/{joined[0]['member_id']}")).status_code == 200


async def test_a_heartbeat_has_the_same_answer_as_a_join(client: httpx2.AsyncClient) -> None:
    await client.put("/v1/topics/orders", json={"partitions": 2})
    joined = (await client.post(MEMBERS, json=ALICE | {"session_timeout_ms": 6_000})).json()

    for body in ({"member_epoch": 1}, {"member_epoch": 1, "owned": ALL}, {"member_epoch": 1, "owned": []}):
        response = await client.post(f"{MEMBERS}/alice/heartbeat", json=body)
        assert (response.status_code, response.json()) == (200, joined)
    assert (joined["session_timeout_ms"], joined["heartbeat_interval_ms"]) == (6_000, 1_000)


async def test_a_member_that_left_is_unknown(client: httpx2.AsyncClient) -> None:
    await client.post(MEMBERS, json=ALICE)

    assert (await client.delete(f"{MEMBERS}/alice")).status_code == 204
    for gone in (
        await client.delete(f"{MEMBERS}/alice"),
        await client.get(f"{MEMBERS}/alice"),
        await client.post(f"{MEMBERS}/alice/heartbeat", json={"member_epoch": 1}),
        await client.delete("/v1/groups/nothing/members/alice"),
    ):
        assert code(gone) == (409, "UNKNOWN_MEMBER_ID")
    assert code(await client.get("/v1/groups/nothing/members/alice")) == (404, "GROUP_ID_NOT_FOUND")


async def test_a_member_with_the_same_instance_id_fences_the_one_before(client: httpx2.AsyncClient) -> None:
    await client.put("/v1/topics/orders", json={"partitions": 2})
    await client.post(MEMBERS, json=ALICE | {"instance_id": "till-1"})

    anna = await client.post(MEMBERS, json=ALICE | {"member_id": "anna", "instance_id": "till-1"})

    assert (anna.status_code, anna.json()["assignment"]) == (201, ALL)
    for fenced in (
        await client.post(f"{MEMBERS}/alice/heartbeat", json={"member_epoch": 1}),
        await client.post(f"{MEMBERS}/alice/poll", json={"member_epoch": 1}),
        await client.get(f"{MEMBERS}/alice"),
        await client.delete(f"{MEMBERS}/alice"),
    ):
        assert code(fenced) == (409, "FENCED_INSTANCE_ID")
    rebalances = (await client.get("/v1/groups/billing/rebalances")).json()["rebalances"]
    assert len(rebalances) == 1


async def test_joins_beyond_the_limits_are_refused(serve: Serve) -> None:
    _, client = await serve(max_groups=1, max_group_members=1)
    await client.post(MEMBERS, json=ALICE)

    for path, name in ((MEMBERS, "bob"), ("/v1/groups/other/members", "alice")):
        assert code(await client.post(path, json=ALICE | {"member_id": name})) == (409, "GROUP_MAX_SIZE_REACHED")


@pytest.mark.parametrize(
    "fields",
    [
        {"topics": None}, {"topics": []}, {"topics": ["a b"]}, {"topics": "orders"},
        {"topics": ["t"] * 1_001}, {"topic_pattern": ""}, {"topic_pattern": "x" * 250}, {"topics": ["a\0b"]},
        {"member_id": ""}, {"member_id": "a b"}, {"member_id": "a\0b"}, {"member_id": ".."}, {"member_id": 1},
        {"session_timeout_ms": 999}, {"session_timeout_ms": 1_800_001}, {"rebalance_timeout_ms": 999},
        {"auto_offset_reset": "never"}, {"auto_offset_reset": "by_duration:P"}, {"auto_offset_reset": 1},
        {"auto_offset_reset": "by_duration:" + "9" * 50}, {"assignor": "sticky"}, {"instance_id": ""},
        {"client_id": "x" * 250}, {"session_timeout": 5},
    ],
    ids=str,
)  # fmt: skip
async def test_an_invalid_join_request_is_422_and_creates_nothing(
    sqlite_client: httpx2.AsyncClient, fields: dict[str, Any]
) -> None:
    assert (await sqlite_client.post(MEMBERS, json=ALICE | fields)).status_code == 422
    if "member_id" not in fields:
        assert (
            await sqlite_client.post(f"{MEMBERS}/alice/poll", json={"topics": ["orders"]} | fields)
        ).status_code == 422

    assert (await sqlite_client.get("/v1/groups")).json()["items"] == []


@pytest.mark.parametrize(
    "text",
    ["é\0", "*[!]", "[", "a" * 249, "*" * 200 + "b", "?*?*?*?*?*?*?*?*x"],
    ids=lambda text: text[:8],
)  # fmt: skip
async def test_pattern_client_id_and_instance_id_take_any_text(client: httpx2.AsyncClient, text: str) -> None:
    await client.put(f"/v1/topics/{'a' * 249}", json={"partitions": 1})
    body = {"topic_pattern": text, "client_id": text, "instance_id": text, "member_id": "alice"}

    assert (await client.post(MEMBERS, json=body)).status_code == 201
    member = (await client.get(f"{MEMBERS}/alice")).json()
    assert (member["topic_pattern"], member["client_id"], member["instance_id"]) == (text, text, text)


async def test_owned_may_name_unknown_partitions(client: httpx2.AsyncClient) -> None:
    await client.put("/v1/topics/orders", json={"partitions": 2})
    await client.post(MEMBERS, json=ALICE)
    owned = [{"topic": name, "partitions": [0, 99, 2**63 - 1]} for name in ("orders", "nothing", "a b", "a\0b", "")]

    assert (
        await client.post(f"{MEMBERS}/alice/heartbeat", json={"member_epoch": 1, "owned": owned})
    ).status_code == 200

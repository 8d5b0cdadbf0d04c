"""Records that are sent to a webhook again: ranges, single records, failed ones."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import pytest

from tests.api.webhooks.calls import NEVER, URL, attempts, change, create, produce, settled, shows
from tests.api.webhooks.receiver import SETTINGS, Answer, receiving
from tests.serving import running
from tests.waiting import until

if TYPE_CHECKING:
    import httpx2

    from tests.serving import Serve

pytestmark = pytest.mark.anyio


@pytest.fixture
async def client(migrated_url: str, serve: Serve) -> httpx2.AsyncClient:
    _, client = await serve(database_url=migrated_url, **SETTINGS)
    await client.put("/v1/topics/orders", json={"partitions": 1})
    return client


async def replay(client: httpx2.AsyncClient, **request: Any) -> int:
    """Begin a replay, and return its id."""
    answer = await client.post(f"{URL}/replay", json={"topic": "orders", "dry_run": False} | request)
    assert answer.status_code == 202, answer.text
    return int(answer.json()["replay_id"])


async def redeliver(client: httpx2.AsyncClient, offset: int) -> int:
    answer = await client.post(f"{URL}/redeliver", json={"topic": "orders", "partition": 0, "offset": offset})
    assert answer.status_code == 202, answer.text
    return int(answer.json()["replay_id"])


async def progress(client: httpx2.AsyncClient, replay_id: int) -> Any:
    answer = await client.get(f"{URL}/replays/{replay_id}")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def done(client: httpx2.AsyncClient, replay_id: int, **expected: int) -> None:
    """Wait until a replay has ended with these counts; the others are 0."""
    found = await until(lambda: progress(client, replay_id), lambda answer: answer["status"] == "done")
    wanted = {"delivered": 0, "filtered": 0, "failed": 0} | expected
    assert {name: found[name] for name in wanted} == wanted


async def test_a_replay_under_load_sends_exactly_its_range_in_order_and_within_max_in_flight(
    client: httpx2.AsyncClient,
) -> None:
    await client.patch("/v1/topics/orders", json={"partitions": 2})
    async with receiving() as receiver:
        await create(client, receiver.url, max_in_flight=1)
        await produce(client, *({"value": number, "partition": number % 2} for number in range(40)))
        await settled(client, delivered=40)
        before = {post.place: post.message_id for post in receiver.posts}
        receiver.posts.clear()
        plan = (await client.post(f"{URL}/replay", json={"topic": "orders", "from": "5", "to": "15"})).json()
        assert (plan["dry_run"], plan["records"]) == (True, 20)
        assert [(each["partition"], each["from_offset"], each["to_offset"]) for each in plan["ranges"]] == [
            (0, 5, 15),
            (1, 5, 15),
        ]

        load = [asyncio.create_task(produce(client, *({"value": "live"} for _ in range(20)))) for _ in range(5)]
        replay_id = await replay(client, **{"from": "5", "to": "15"})
        await asyncio.gather(*load)
        await done(client, replay_id, delivered=20)
        await settled(client, delivered=140)

    again = defaultdict(list)
    for post in receiver.posts:
        if post.json != "live":
            partition, offset = post.place
            again[partition].append(offset)
            assert post.message_id == before[post.place]
    assert again == {0: list(range(5, 15)), 1: list(range(5, 15))}
    assert len(receiver.posts) == 120
    assert receiver.at_once == 1


async def test_the_filter_applies_to_a_replay_and_not_to_a_single_record(client: httpx2.AsyncClient) -> None:
    async with receiving() as receiver:
        await create(client, receiver.url, filter={"value": "/n", "gte": 2})
        await produce(client, *({"value": {"n": number}} for number in range(4)))
        await settled(client, delivered=2, filtered=2)
        await done(client, await replay(client), delivered=2, filtered=2)
        await done(client, await redeliver(client, 0), delivered=1)

    assert [post.json["n"] for post in receiver.posts[2:]] == [2, 3, 0]


async def test_a_replay_that_waits_for_a_retry_does_not_hold_up_another(client: httpx2.AsyncClient) -> None:
    async with receiving() as receiver:
        await create(client, receiver.url, retry_delays_ms=NEVER)
        await produce(client, {"value": 1}, {"value": 2})
        await settled(client, delivered=2)
        receiver.answer = lambda post: Answer(500 if post.json == 1 else 200)
        stuck = await replay(client)
        await receiver.received(3)
        await done(client, await redeliver(client, 1), delivered=1)
        assert (await progress(client, stuck))["status"] == "running"

    assert [post.json for post in receiver.posts[2:]] == [1, 2]


async def test_a_replay_takes_its_retries_and_goes_on_after_a_record_that_is_given_up(
    client: httpx2.AsyncClient,
) -> None:
    async with receiving() as receiver:
        await create(client, receiver.url, retry_delays_ms=[1])
        await produce(client, {"value": 1}, {"value": 2})
        await settled(client, delivered=2)
        receiver.answer = lambda post: Answer(500 if post.json == 1 else 200)
        await done(client, await replay(client), delivered=1, failed=1)
        found = await attempts(client, 2, outcome="failed")

    assert [post.json for post in receiver.posts[2:]] == [1, 1, 2]
    assert [each["attempt"] for each in found] == [2, 1]


async def test_only_failed_records_are_sent_again_on_request(client: httpx2.AsyncClient) -> None:
    async with receiving(lambda post: Answer(500 if post.json % 2 else 200)) as receiver:
        await create(client, receiver.url, retry_delays_ms=[])
        await produce(client, *({"value": number} for number in range(6)))
        await settled(client, delivered=3, dropped=3)
        receiver.answer = lambda _: Answer()
        receiver.posts.clear()

        async def planned() -> int:
            plan = await client.post(f"{URL}/replay", json={"topic": "orders", "only": "failed", "from": "2"})
            return int(plan.json()["records"])

        await until(planned, lambda found: found == 2)
        await done(client, await replay(client, only="failed"), delivered=3)
        assert await until(planned, lambda found: found == 0) == 0

    assert [post.json for post in receiver.posts] == [1, 3, 5]


async def test_a_cancelled_replay_sends_no_more(client: httpx2.AsyncClient) -> None:
    async with receiving() as receiver:
        await create(client, receiver.url)
        await produce(client, *({"value": number} for number in range(3)))
        await settled(client, delivered=3)
        receiver.open.clear()
        replay_id = await replay(client)
        await receiver.received(4)
        assert (await client.delete(f"{URL}/replays/{replay_id}")).status_code == 204
        receiver.open.set()
        await done(client, await redeliver(client, 2), delivered=1)
        assert (await progress(client, replay_id))["status"] == "cancelled"

    assert [post.json for post in receiver.posts[3:]] == [0, 2]


async def test_a_replay_that_is_cancelled_while_the_webhook_is_paused_sends_nothing(client: httpx2.AsyncClient) -> None:
    async with receiving() as receiver:
        await create(client, receiver.url, paused=True, filter={"value": "/n", "gte": 1})
        await produce(client, {"value": {"n": 0}}, {"value": {"n": 1}})
        await client.post(f"{URL}/skip", json={"topic": "orders", "dry_run": False})
        replay_id = await replay(client)
        await until(lambda: progress(client, replay_id), lambda answer: answer["filtered"] == 1)
        assert (await client.delete(f"{URL}/replays/{replay_id}")).status_code == 204
        again = await redeliver(client, 0)
        await change(client, paused=False)
        await done(client, again, delivered=1)
        assert (await progress(client, replay_id))["status"] == "cancelled"

    assert [post.json["n"] for post in receiver.posts] == [0]


async def test_a_replay_waits_while_the_webhook_is_paused_and_passes_what_retention_deleted(
    client: httpx2.AsyncClient,
) -> None:
    async with receiving() as receiver:
        await create(client, receiver.url, paused=True)
        await produce(client, *({"value": number} for number in range(4)))
        replay_id = await replay(client)
        deleted = await client.delete("/v1/topics/orders/partitions/0/records", params={"before_offset": 2})
        assert deleted.status_code == 200, deleted.text
        assert (await progress(client, replay_id))["status"] == "running"
        assert receiver.posts == []
        await change(client, paused=False)
        await until(lambda: progress(client, replay_id), lambda answer: answer["status"] == "done")
        await settled(client, delivered=2, expired=2)

    beyond_the_first = [post.json for post in receiver.posts if post.json > 0]
    assert sorted(beyond_the_first) == [2, 2, 3, 3], "the first record may have been read before it was deleted"


async def test_gone_in_a_replay_disables_the_webhook(client: httpx2.AsyncClient) -> None:
    async with receiving() as receiver:
        await create(client, receiver.url)
        await produce(client, {"value": 1})
        await settled(client, delivered=1)
        receiver.answer = lambda _: Answer(410)
        await redeliver(client, 0)
        await shows(client, status="disabled")


async def test_a_replay_goes_on_where_a_server_that_stopped_was(migrated_url: str, serve: Serve) -> None:
    async with receiving() as receiver:
        async with running({"database_url": migrated_url} | SETTINGS) as (_, client):
            await client.put("/v1/topics/orders", json={"partitions": 1})
            await create(client, receiver.url, max_in_flight=1)
            await produce(client, *({"value": number} for number in range(6)))
            await settled(client, delivered=6)
            receiver.posts.clear()
            replay_id = await replay(client)
            await receiver.received(2)
            receiver.open.clear()
        stopped_at = len(receiver.posts)
        receiver.open.set()
        _, client = await serve(database_url=migrated_url, **SETTINGS)
        await done(client, replay_id, delivered=6)

    values = [post.json for post in receiver.posts]
    assert sorted(set(values)) == list(range(6))
    assert values in (list(range(6)), values[:stopped_at] + list(range(values[stopped_at - 1], 6)))


async def test_unknown_records_topics_and_replays_are_refused(client: httpx2.AsyncClient) -> None:
    await create(client, "https://example.com", paused=True)
    await produce(client, {"value": 1})
    replay_id = await replay(client)
    await produce(client, {"value": 1}, topic="salaries")
    await client.put("/v1/webhooks/other", json={"url": "https://example.com", "topics": ["orders"], "paused": True})

    place = {"topic": "orders", "partition": 0, "offset": 0}
    for path, body, status in (
        ("billing/redeliver", place | {"offset": 1}, 404),
        ("billing/redeliver", place | {"partition": 9}, 404),
        ("billing/redeliver", place | {"topic": "missing"}, 404),
        ("missing/redeliver", place, 404),
        ("billing/redeliver", place | {"topic": "salaries"}, 422),
        ("billing/replay", {"topic": "missing"}, 404),
        ("billing/replay", {"topic": "salaries"}, 422),
        ("billing/replay", {"topic": "salaries", "dry_run": False}, 422),
        ("billing/skip", {"topic": "salaries"}, 422),
        ("billing/replay", {"topic": "orders", "from": "soon"}, 422),
        ("billing/replay", {"topic": "orders", "only": "some"}, 422),
        ("billing/redrive", {}, 422),
    ):
        answer = await client.post(f"/v1/webhooks/{path}", json=body)
        assert answer.status_code == status, (path, body, answer.text)
    assert (await client.get(f"/v1/webhooks/other/replays/{replay_id}")).status_code == 404
    assert (await client.delete(f"/v1/webhooks/other/replays/{replay_id}")).status_code == 404
    empty = await client.post(f"{URL}/replay", json={"topic": "orders", "from": "1"})
    assert (empty.status_code, empty.json()["records"]) == (200, 0)

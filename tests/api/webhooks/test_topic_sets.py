"""Which topics a webhook covers: names and patterns, topics that appear later, are deleted, or leave the set."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.api.webhooks.calls import URL, change, create, produce, settled
from tests.api.webhooks.receiver import SETTINGS, Answer, receiving
from tests.waiting import until

if TYPE_CHECKING:
    import httpx2

    from tests.serving import Serve

pytestmark = pytest.mark.anyio


@pytest.fixture
async def client(migrated_url: str, serve: Serve) -> httpx2.AsyncClient:
    _, client = await serve(database_url=migrated_url, **SETTINGS)
    return client


async def look(client: httpx2.AsyncClient) -> None:
    """Let the node look for new topics now; without a change it does so every three seconds."""
    await change(client, description="looked")


async def test_a_pattern_covers_topics_that_appear_later_from_their_start(client: httpx2.AsyncClient) -> None:
    async with receiving() as receiver:
        await create(client, receiver.url, topic_pattern="eu.*")
        await produce(client, {"value": 1}, topic="eu.orders")
        await produce(client, {"value": 2}, topic="us.orders")
        await look(client)
        (post,) = await receiver.received(1)
        assert post.headers["millrace-topic"] == "eu.orders"
        await client.delete("/v1/topics/eu.orders")
        await produce(client, {"value": 3}, topic="eu.orders")
        await look(client)
        posts = await receiver.received(2)

    assert [each.json for each in posts] == [1, 3]
    assert posts[0].message_id != posts[1].message_id


@pytest.mark.parametrize(("start", "expected"), [("latest", [3]), ("earliest", [1, 2, 3]), ("-1", [2, 3])])
async def test_a_pattern_starts_in_topics_that_exist_as_start_says(
    client: httpx2.AsyncClient, start: str, expected: list[int]
) -> None:
    await client.put("/v1/topics/eu.orders", json={"partitions": 1})
    await produce(client, {"value": 1}, {"value": 2}, topic="eu.orders")
    async with receiving() as receiver:
        await create(client, receiver.url, topic_pattern="eu.*", start=start, ordering="partition")
        await produce(client, {"value": 3}, topic="eu.orders")
        await settled(client, delivered=len(expected))

    assert [each.json for each in receiver.posts] == expected


async def test_another_pattern_leaves_topics_out_and_starts_in_its_own_as_start_says(
    client: httpx2.AsyncClient,
) -> None:
    await produce(client, {"value": 1}, topic="us.orders")
    async with receiving() as receiver:
        await create(client, receiver.url, topic_pattern="eu.*")
        await produce(client, {"value": 2}, topic="eu.orders")
        await look(client)
        await receiver.received(1)
        await change(client, topic_pattern="us.*")
        await produce(client, {"value": 3}, topic="eu.orders")
        await produce(client, {"value": 4}, topic="us.orders")
        await produce(client, {"value": 5}, topic="us.invoices")
        await look(client)
        posts = await receiver.received(3)
        await settled(client, delivered=3)
        moved = await change(client, topics=["us.orders"])
        assert (moved["topics"], moved["topic_pattern"]) == (["us.orders"], None)
        await produce(client, {"value": 6}, topic="us.invoices")
        await produce(client, {"value": 7}, topic="us.orders")
        await settled(client, delivered=4)

    assert posts[0].json == 2
    assert sorted(each.json for each in receiver.posts) == [2, 4, 5, 7]


async def test_dead_letters_of_a_pattern_are_kept_for_every_topic(client: httpx2.AsyncClient) -> None:
    await client.put("/v1/topics/eu.orders", json={})
    async with receiving(lambda _: Answer(500)) as receiver:
        await create(
            client,
            receiver.url,
            topic_pattern="eu.*",
            on_exhausted="dead_letter",
            dead_letter_topic="dead",
            retry_delays_ms=[],
        )
        await produce(client, {"value": 1}, topic="eu.orders")
        await produce(client, {"value": 2}, topic="eu.later")
        await look(client)
        await settled(client, dead_lettered=2)

        async def letters() -> list[int]:
            found = await client.get("/v1/topics/dead/records")
            return sorted(record["value"] for record in found.json()["records"])

        await until(letters, lambda found: found == [1, 2])


async def test_a_pattern_does_not_cover_its_own_dead_letters(client: httpx2.AsyncClient) -> None:
    wanted = {
        "url": "https://example.com/hooks",
        "topic_pattern": "orders*",
        "on_exhausted": "dead_letter",
        "dead_letter_topic": "orders.dead",
    }
    refused = await client.put(URL, json=wanted)
    assert refused.status_code == 422
    assert [error["field"] for error in refused.json()["errors"]] == ["dead_letter_topic"]

    assert (await client.put(URL, json=wanted | {"dead_letter_topic": "dead"})).status_code == 201
    assert (await client.patch(URL, json={"topic_pattern": "d*"})).status_code == 422


async def test_a_named_topic_that_was_deleted_is_covered_again_from_its_start(client: httpx2.AsyncClient) -> None:
    async with receiving(lambda post: Answer(500 if post.json == 1 else 200)) as receiver:
        await create(client, receiver.url, topics=["orders", "invoices"], retry_delays_ms=[3_600_000])
        await produce(client, {"value": 1})
        await settled(client, retrying=1)
        assert (await client.delete("/v1/topics/orders")).status_code == 204
        await settled(client)
        await produce(client, {"value": 2})
        await look(client)
        await produce(client, {"value": 3}, topic="invoices")
        await settled(client, delivered=2)

    assert sorted(each.json for each in receiver.posts) == [1, 2, 3]


async def test_a_topic_that_a_change_adds_starts_as_start_says_and_one_that_it_removes_is_left_alone(
    client: httpx2.AsyncClient,
) -> None:
    await produce(client, {"value": 1}, topic="invoices")
    async with receiving() as receiver:
        await create(client, receiver.url)
        await change(client, topics=["invoices"])
        await produce(client, {"value": 2})
        await produce(client, {"value": 3}, topic="invoices")
        await settled(client, delivered=1)
        await change(client, topics=["invoices", "orders"])
        await produce(client, {"value": 4})
        await settled(client, delivered=2)

    assert [each.json for each in receiver.posts] == [3, 4]
    assert (await client.get("/v1/topics/orders/records")).json()["records"]


async def test_new_partitions_of_a_topic_are_covered(client: httpx2.AsyncClient) -> None:
    await client.put("/v1/topics/orders", json={"partitions": 1})
    async with receiving() as receiver:
        await create(client, receiver.url)
        assert (await client.patch("/v1/topics/orders", json={"partitions": 3})).status_code == 200
        await produce(client, *({"value": number, "partition": number} for number in range(3)))
        await settled(client, delivered=3)

    assert sorted(post.place for post in receiver.posts) == [(0, 0), (1, 0), (2, 0)]


async def test_an_error_names_the_webhook_of_a_dead_letter_topic(client: httpx2.AsyncClient) -> None:
    await create(client, "https://example.com", on_exhausted="dead_letter", dead_letter_topic="dead", paused=True)

    refused = await client.delete("/v1/topics/dead")
    assert (refused.status_code, refused.json()["code"]) == (409, "TOPIC_IN_USE")
    assert "webhook billing" in refused.json()["detail"]

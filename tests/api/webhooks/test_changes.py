"""A webhook that is changed while it sends: what is ready goes on as the new configuration says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.api.webhooks.calls import NEVER, URL, attempts, change, counts, create, produce, settled
from tests.api.webhooks.receiver import SETTINGS, Answer, receiving
from tests.waiting import until

if TYPE_CHECKING:
    import httpx2

    from tests.serving import Serve

pytestmark = pytest.mark.anyio


@pytest.fixture
async def client(sqlite_url: str, serve: Serve) -> httpx2.AsyncClient:
    _, client = await serve(database_url=sqlite_url, **SETTINGS)
    await client.put("/v1/topics/orders", json={"partitions": 1})
    return client


@pytest.fixture
async def limited(sqlite_url: str, serve: Serve) -> httpx2.AsyncClient:
    """A client of a server that sends no new record while three are retried."""
    _, client = await serve(database_url=sqlite_url, webhook_max_retrying=3, **SETTINGS)
    await client.put("/v1/topics/orders", json={"partitions": 1})
    return client


async def test_each_record_of_a_batch_that_is_ready_when_the_mode_changes_is_sent(client: httpx2.AsyncClient) -> None:
    async with receiving() as receiver:
        receiver.open.clear()
        await create(client, receiver.url, mode="envelope-batch", ordering="none", max_in_flight=1, max_batch_records=5)
        await produce(client, *({"value": number} for number in range(3)))
        await receiver.received(1)
        await produce(client, *({"value": number} for number in range(3, 20)))
        await until(lambda: counts(client), lambda found: found["in_flight"] > 3)
        await change(client, mode="envelope")
        receiver.open.set()
        await settled(client, delivered=20)

    values = [each["record"]["value"] for post in receiver.posts for each in post.json.get("records", [post.json])]
    assert sorted(values) == list(range(20))


async def test_retried_records_that_a_new_filter_refuses_make_room_for_new_ones(limited: httpx2.AsyncClient) -> None:
    async with receiving(lambda post: Answer(200 if post.headers["millrace-key"] == "good" else 500)) as receiver:
        await create(limited, receiver.url, ordering="none", retry_delays_ms=[1_500, *NEVER])
        await produce(limited, *({"key": "bad", "value": number} for number in range(3)))
        await attempts(limited, 3)
        await change(limited, filter={"key": True, "equals": "good"})
        await produce(limited, {"key": "good", "value": 3})
        await settled(limited, delivered=1, filtered=3)


async def test_records_that_are_skipped_during_their_attempts_are_no_retries(limited: httpx2.AsyncClient) -> None:
    async with receiving(lambda post: Answer(200 if post.body == b"3" else 500)) as receiver:
        receiver.open.clear()
        await create(limited, receiver.url, ordering="none", retry_delays_ms=NEVER)
        await produce(limited, *({"value": number} for number in range(3)))
        await receiver.received(3)
        skipped = await limited.post(f"{URL}/skip", json={"topic": "orders", "to": "latest", "dry_run": False})
        assert skipped.status_code == 200, skipped.text
        receiver.open.set()
        await attempts(limited, 3)
        await produce(limited, {"value": 3})
        await settled(limited, delivered=1)


async def test_retried_records_that_retention_has_deleted_make_room_for_new_ones(limited: httpx2.AsyncClient) -> None:
    async with receiving(lambda post: Answer(200 if post.body == b"3" else 500)) as receiver:
        await create(limited, receiver.url, ordering="none", retry_delays_ms=[0, *NEVER])
        receiver.open.clear()
        await produce(limited, *({"value": number} for number in range(3)))
        await receiver.received(3)
        await change(limited, paused=True)
        receiver.open.set()
        await attempts(limited, 3)
        await limited.delete("/v1/topics/orders/partitions/0/records", params={"before_offset": 3})
        await change(limited, paused=False)
        await produce(limited, {"value": 3})
        await settled(limited, delivered=1, expired=3)


async def test_a_topic_that_is_deleted_takes_the_retries_of_its_records_along(limited: httpx2.AsyncClient) -> None:
    async with receiving(lambda post: Answer(200 if post.body == b"3" else 500)) as receiver:
        await create(limited, receiver.url, ordering="none", retry_delays_ms=NEVER)
        await produce(limited, *({"value": number} for number in range(3)))
        await attempts(limited, 3)
        assert (await limited.delete("/v1/topics/orders")).status_code == 204
        await settled(limited)
        await produce(limited, {"value": 3})
        await settled(limited, delivered=1)

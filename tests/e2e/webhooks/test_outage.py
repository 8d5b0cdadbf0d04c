"""A receiver that is down for a day, with many records behind it: nothing is lost, little is stored, all arrives."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from app.main import create_app
from app.settings import Settings
from tests.api.webhooks.calls import change, counts, create, settled
from tests.api.webhooks.receiver import SETTINGS, Answer, receiving
from tests.api.webhooks.wall_clock import WallClock
from tests.serving import client_of, lifespan
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx2

pytestmark = pytest.mark.anyio

PROBE_MS = 900_001
"""Longer than a breaker is ever open."""
KEPT = 20
MAX_RETRYING = 64
PER_REQUEST = 500
CATCH_UP_S = 1_800


@pytest.fixture
def clock() -> WallClock:
    return WallClock()


@pytest.fixture
async def client(sqlite_url: str, clock: WallClock, anyio_backend: str) -> AsyncIterator[httpx2.AsyncClient]:
    values = {
        "database_url": sqlite_url,
        "ballast_bytes": 0,
        "webhook_attempts_kept": KEPT,
        "webhook_max_retrying": MAX_RETRYING,
    }
    application = create_app(Settings.model_validate(values | SETTINGS), wall_ms=clock)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(lifespan(application))
        yield await stack.enter_async_context(client_of(application.asgi))


@pytest.mark.parametrize(
    ("records", "probes"), [(2_000, 8), pytest.param(1_000_000, 96, marks=pytest.mark.slow)], ids=["short", "long"]
)
async def test_a_receiver_that_was_down_for_a_day_gets_every_record_in_order(
    client: httpx2.AsyncClient, clock: WallClock, records: int, probes: int
) -> None:
    async with receiving(lambda _: Answer(500)) as receiver:
        await create(client, receiver.url, mode="envelope-batch", retry_delays_ms=[5] * 9, start="earliest")
        for first in range(0, records, PER_REQUEST):
            batch = [{"key": str(number % 97), "value": number} for number in range(first, first + PER_REQUEST)]
            answer = await client.post("/v1/topics/orders/records", json={"records": batch})
            assert answer.status_code == 201, answer.text
        for _ in range(probes):
            before = len(receiver.posts)
            clock.now_ms += PROBE_MS
            await change(client, description=str(clock.now_ms))
            await receiver.received(before + 1)
        found = await counts(client)
        assert found["delivered"] == found["dropped"] == 0
        assert found["retrying"] <= MAX_RETRYING
        assert found["waiting"] + found["retrying"] + found["in_flight"] == records
        await client.post("/v1/webhooks/billing/test")  # the attempts are stored before its own

        receiver.posts.clear()
        receiver.answer = lambda _: Answer()
        clock.now_ms += PROBE_MS
        await change(client, description="repaired")
        began = time.monotonic()
        await until(lambda: counts(client), lambda now: now["delivered"] == records, CATCH_UP_S)
        print(f"{records / (time.monotonic() - began):.0f} records/s after the outage")
        await settled(client, delivered=records)

    arrived: dict[str, list[int]] = {}
    for post in receiver.posts:
        for each in post.json["records"]:
            arrived.setdefault(each["record"]["key"], []).append(each["record"]["value"])
    assert arrived == {str(key): list(range(key, records, 97)) for key in range(97)}
    failed = await client.get("/v1/webhooks/billing/attempts", params={"outcome": "failed", "limit": 1_000})
    assert len(failed.json()["items"]) <= 2 * KEPT

"""What requests take of the memory budget to decompress and decode their bodies."""

from __future__ import annotations

import asyncio
import gzip
from typing import TYPE_CHECKING

import pytest

from app.domain.memory.ledger import Holding

if TYPE_CHECKING:
    from tests.serving import Serve

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024
URL = "/v1/topics/orders/records"
PACKED = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
VALUES = b'{"records":[' + b",".join([b'{"value":"%b"}' % (b"x" * 3000)] * 280) + b"]}"


async def test_compressed_bodies_are_refused_before_they_are_inflated_beyond_the_budget(serve: Serve) -> None:
    application, client = await serve(memory_budget_bytes=16 * MIB)
    body = gzip.compress(VALUES)
    answers = await asyncio.gather(*(client.post(URL, content=body, headers=PACKED) for _ in range(20)))

    assert {answer.status_code for answer in answers} == {201, 503}
    refused = next(answer for answer in answers if answer.status_code == 503)
    assert refused.headers["retry-after"] == "1"
    assert refused.json()["retriable"] is True
    memory = application.services.memory
    assert (memory.ledger.bytes, memory.work.bytes) == (0, 0)


async def test_a_body_larger_than_a_sixteenth_of_the_budget_is_413(serve: Serve) -> None:
    _, client = await serve(memory_budget_bytes=16 * MIB)
    answer = await client.post(URL, content=b" " * (MIB + 1), headers={"Content-Type": "application/json"})

    assert answer.status_code == 413
    assert answer.json()["max_bytes"] == MIB


@pytest.mark.parametrize("size", [0, 5, 2**32 - 1])
async def test_a_compressed_body_that_states_a_wrong_size_is_400(serve: Serve, size: int) -> None:
    application, client = await serve()
    body = gzip.compress(VALUES)[:-4] + size.to_bytes(4, "little")
    answer = await client.post(URL, content=body, headers=PACKED)

    assert answer.status_code == 400
    assert application.services.memory.ledger.bytes == 0


async def test_many_small_records_are_counted_with_what_they_take_when_decoded(serve: Serve) -> None:
    application, client = await serve(memory_budget_bytes=32 * MIB)
    lines = {"Content-Type": "application/x-ndjson"}
    answers = await asyncio.gather(
        *(client.post(URL + "?lines=values", content=b"0\n" * 10_000, headers=lines) for _ in range(4))
    )

    assert {answer.status_code for answer in answers} == {201, 503}
    assert application.services.memory.work.bytes == 0


async def test_large_bodies_are_decoded_like_small_ones(serve: Serve) -> None:
    _, client = await serve()
    answers = [
        await client.post(URL, content=VALUES, headers={"Content-Type": "application/json"}),
        await client.post(URL, content=gzip.compress(VALUES), headers=PACKED),
        await client.post(URL, content=VALUES[:-1], headers={"Content-Type": "application/json"}),
        await client.post("/v1/transactions", content=VALUES, headers={"Content-Type": "application/json"}),
    ]

    assert [answer.status_code for answer in answers] == [201, 201, 400, 422]


async def test_an_address_that_does_not_read_its_answers_gets_small_pages_and_no_large_ones(serve: Serve) -> None:
    application, client = await serve()
    await client.post(URL, content=VALUES, headers={"Content-Type": "application/json"})
    unread = Holding(application.services.memory.ledger, "127.0.0.1")
    unread.hold(96 * MIB)
    path = "/v1/topics/orders/records"

    page = await client.get(path)
    assert page.status_code == 200
    assert 0 < len(page.content) < 128 * 1024
    large = await client.get(f"{path}?max_bytes=9000000")
    assert (large.status_code, large.headers["retry-after"]) == (503, "1")
    poll = {"topics": ["orders"], "max_bytes": 9_000_000}
    assert (await client.post("/v1/groups/g/members/m/poll", json=poll)).status_code == 503
    acquire = {"topic": "orders", "max_bytes": 9_000_000}
    assert (await client.post("/v1/queues/q/acquire", json=acquire)).status_code == 503

    unread.release()
    assert len((await client.get(f"{path}?max_bytes=9000000")).content) > 800_000

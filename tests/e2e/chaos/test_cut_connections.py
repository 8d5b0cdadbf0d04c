"""A connection is cut at every byte of a request and of an answer: of a client, and of PostgreSQL.

Each request is repeated until it is acknowledged: it is stored once. Of a request without a key that was cut before its
last byte nothing is stored.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from tests.e2e.chaos.byte_proxy import ByteProxy, Direction
from tests.e2e.support.raw_http import Answer, AnswerLost, exchange, parse, request_of
from tests.e2e.support.server_process import ServerProcess
from tests.history.checker import assert_sound
from tests.history.events import Poll, Send
from tests.history.log_clients import Kind, Producer, final_polls
from tests.history.recorder import Call, Recorder

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

pytestmark = pytest.mark.anyio

LONG = os.environ.get("MILLRACE_CHAOS") == "long"
HTTP_STEPS = [13, pytest.param(1, marks=pytest.mark.slow)]
DATABASE_STEPS = [97, pytest.param(1 if LONG else 17, marks=pytest.mark.slow)]
"""Bytes from one cut to the next."""
TOPIC = "orders"
MOST_BYTES = 100_000
TIMEOUT_S = 20.0
KINDS: tuple[Kind, ...] = ("plain", "key", "sequence")
DIRECTIONS: tuple[Direction, ...] = ("request", "answer")


def raw_calls(url: str) -> Call:
    """Return a function that sends each request on a connection of its own."""

    async def call(method: str, path: str, document: object = None, headers: Mapping[str, str] | None = None) -> Answer:
        body = b"" if document is None else json.dumps(document).encode()
        try:
            return parse(await exchange(url, request_of(url, method, path, body, headers or {}), None, TIMEOUT_S))
        except OSError:
            raise AnswerLost from None

    return call


async def cut_and_repeat(
    proxy: ByteProxy, producer: Producer, direct: Call, direction: Direction, sizes: Iterable[int]
) -> int:
    """Cut a request after each of some sizes, until one is not cut. Return the number of cuts."""
    cuts = 0
    for size in sizes:
        values = producer.next_values(2)
        proxy.cut_after(direction, size)
        result = await producer.attempt(values, [0, 0])
        if not proxy.cut:
            proxy.cut_no_more()
            break
        cuts += 1
        if producer.kind != "plain":
            while result.outcome != "ok":
                result = await producer.attempt(values, [0, 0], call=direct)
    return cuts


@pytest.mark.parametrize("step", HTTP_STEPS)
async def test_a_request_that_is_cut_at_any_byte_is_stored_at_most_once(
    sqlite_url: str, tmp_path: Path, step: int
) -> None:
    recorder, cuts = Recorder(), 0
    with ServerProcess(sqlite_url, tmp_path) as node:
        async with ByteProxy(urlsplit(node.url).port or 0) as proxy:
            cut, direct = raw_calls(f"http://127.0.0.1:{proxy.port}"), raw_calls(node.url)
            await direct("PUT", f"/v1/topics/{TOPIC}", {"partitions": 1})
            for kind, direction in itertools.product(KINDS, DIRECTIONS):
                producer = Producer(recorder, cut, f"{kind}-{direction}", TOPIC, kind, f"{kind}-{direction}")
                cuts += await cut_and_repeat(proxy, producer, direct, direction, range(0, MOST_BYTES, step))
            await final_polls(recorder, direct, TOPIC, [0])
        assert "Traceback" not in node.log
    assert_sound(recorder.history)
    stored = {value for event in recorder.history if isinstance(event, Poll) for _, value in event.records}
    sends = [event for event in recorder.history if isinstance(event, Send) and event.process == "plain-request"]
    assert not any(value in stored for event in sends if event.outcome != "ok" for value in event.values)
    assert cuts > 6 * 150 // step
    print(f"{cuts} cuts")


@pytest.mark.postgres
@pytest.mark.parametrize("step", DATABASE_STEPS)
async def test_a_connection_to_postgresql_that_is_cut_at_any_byte_of_a_transaction_loses_nothing(
    migrated_postgres_url: str, tmp_path: Path, step: int
) -> None:
    recorder, cuts = Recorder(), 0
    server = urlsplit(migrated_postgres_url)
    async with ByteProxy(server.port or 5432) as proxy:
        url = f"postgresql://{server.username}@127.0.0.1:{proxy.port}{server.path}?sslmode=disable&gssencmode=disable"
        settings = {"retention_interval_ms": 3_600_000, "rebalance_interval_ms": 1_000}
        node = ServerProcess(url, tmp_path, settings=settings)
        try:
            await asyncio.to_thread(node.start)
            call = raw_calls(node.url)
            await call("PUT", f"/v1/topics/{TOPIC}", {"partitions": 1})
            for kind, direction in itertools.product(KINDS, DIRECTIONS):
                producer = Producer(recorder, call, f"{kind}-{direction}", TOPIC, kind, f"{kind}-{direction}")
                await producer.attempt(producer.next_values(2), [0, 0])
                cuts += await cut_and_repeat(proxy, producer, call, direction, range(0, MOST_BYTES, step))
            await final_polls(recorder, call, TOPIC, [0])
        finally:
            await asyncio.to_thread(node.kill)
    assert_sound(recorder.history)
    assert "Traceback" not in node.log
    outcomes = [event.outcome for event in recorder.history]
    print(f"{cuts} cuts, {outcomes.count('info')} unknown outcomes, {outcomes.count('fail')} refusals")
    assert cuts > 10

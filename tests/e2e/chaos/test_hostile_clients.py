"""Malformed requests, and clients that send slowly: the server answers, keeps nothing, and serves the others."""

from __future__ import annotations

import asyncio
import os
import random
import re
from collections import Counter
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from tests.e2e.support.api_calls import create_topic, produce, read_partition
from tests.e2e.support.server_process import ServerProcess
from tests.waiting import pause, until

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio

LONG = os.environ.get("MILLRACE_CHAOS") == "long"
MALFORMED = [500, pytest.param(100_000 if LONG else 20_000, marks=pytest.mark.slow)]
SLOW = 1_000
AT_ONCE = 32
ANSWER_S = 20.0
BYTE_EVERY_S = 1.0
HEAD_LIMIT_S = 60.0
"""More than the server gives a request to send its head."""

RECORD = b'{"records":[{"key":"k","value":{"a":[1,2.5,null,"\\u00e9"]},"headers":[{"name":"n","value":"v"}]}]}'
HEADS = (
    b"POST /v1/topics/orders/records HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n",
    b"POST /v1/topics/orders/partitions/0/records?expected_offset=0 HTTP/1.1\r\nHost: localhost\r\n",
    b"GET /v1/topics/orders/partitions/0/records?offset=0&max_records=5 HTTP/1.1\r\nHost: localhost\r\n",
    b"GET /v1/topics/orders/records?cursor=abc&max_wait_ms=1 HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n",
    b"POST /v1/groups/g/members/m/poll HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n",
    b"POST /v1/queues/q/acquire HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n",
    b"PUT /v1/topics/orders HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n",
    b"POST /v1/transactions HTTP/1.1\r\nHost: localhost\r\nIdempotency-Key: k\r\n",
)
PIECES = (
    b"\r\n", b"\n", b"\x00", b"\xff\xfe", b"%00", b"%2F..", b"{", b"]", b'"', b"NaN", b"-1", b"9" * 400, b"\\ud800",
    b"Content-Length: 5\r\n", b"Content-Length: -1\r\n", b"Transfer-Encoding: chunked\r\n", b"0\r\n\r\n",
    b"Content-Encoding: gzip\r\n", b"Expect: 100-continue\r\n", b"Host: evil\r\n", b"[" * 2_000, b" " * 3_000,
    b"HTTP/9.9", b"Producer-Sequence: x\r\n", b"Upgrade: websocket\r\n", b"\xe2\x82", b"?offset=@x",
)  # fmt: skip
STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})")


def mutant(rng: random.Random) -> bytes:
    """Return a request with some bytes removed, replaced, repeated or inserted."""
    head = rng.choice(HEADS)
    body = RECORD if rng.random() < 0.7 else b"{}"
    request = bytearray(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(request))
        end = min(len(request), start + rng.randint(1, 12))
        change = rng.randrange(4)
        if change == 0:
            del request[start:end]
        elif change == 1:
            request[start:end] = rng.randbytes(end - start)
        elif change == 2:
            request[start:start] = request[start:end] * rng.randint(1, 50)
        else:
            request[start:start] = rng.choice(PIECES)
        if not request:
            return b"\r\n"
    return bytes(request)


async def statuses_of(url: str, request: bytes) -> list[int]:
    """Send the bytes, end the connection's side, and return the statuses of the answers."""
    reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(url).port)
    try:
        writer.write(request)
        await writer.drain()
        writer.write_eof()
        async with asyncio.timeout(ANSWER_S):
            return [int(status) for status in STATUS.findall(await reader.read())]
    except OSError:
        return []
    finally:
        writer.transport.abort()


@pytest.mark.parametrize("number", MALFORMED)
async def test_malformed_requests_get_no_5xx_and_change_no_record(
    sqlite_url: str, tmp_path: Path, number: int, seed: int
) -> None:
    rng = random.Random(seed)
    found: Counter[int] = Counter()
    with ServerProcess(sqlite_url, tmp_path) as node:
        async with node.client() as client:
            await create_topic(client, "kept", 1)
            await produce(client, "kept", *range(10))

            async def send(some: int) -> None:
                for _ in range(some):
                    request = mutant(rng)
                    statuses = await statuses_of(node.url, request)
                    assert all(status < 500 or status in {501, 505} for status in statuses), request
                    found.update(statuses)

            await asyncio.gather(*(send(number // AT_ONCE) for _ in range(AT_ONCE)))
            assert [record["value"] for record in await read_partition(client, "kept", 0)] == [*range(10)]
            assert (await client.get("/readyz")).status_code == 200
        assert "Traceback" not in node.log
    assert found[400] > number // 20
    print(f"{number} malformed requests: {dict(sorted(found.items()))}")


async def open_files(pid: int) -> int:
    return len(await asyncio.to_thread(os.listdir, f"/proc/{pid}/fd"))


async def send_slowly(url: str) -> bytes:
    """Send a byte of a head a second until the server ends the connection, and return its answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(url).port)
    answer = asyncio.create_task(reader.read())
    try:
        for byte in HEADS[0] * 2:
            if answer.done():
                break
            writer.write(bytes([byte]))
            await pause(BYTE_EVERY_S)
        async with asyncio.timeout(HEAD_LIMIT_S):
            return await answer
    finally:
        answer.cancel()
        writer.transport.abort()


@pytest.mark.slow
async def test_a_thousand_slow_clients_are_ended_and_others_are_served_meanwhile(
    sqlite_url: str, tmp_path: Path
) -> None:
    with ServerProcess(sqlite_url, tmp_path) as node:
        async with node.client() as client:
            await create_topic(client, "orders", 1)
            before = await open_files(node.pid)
            slow = asyncio.gather(*(send_slowly(node.url) for _ in range(SLOW)))
            served = 0
            while not slow.done():
                await produce(client, "orders", served)
                served += 1
                await pause(0.02)
            answers = await slow
            assert all(answer.startswith(b"HTTP/1.1 408") for answer in answers)
            assert len(await read_partition(client, "orders", 0)) == served > 100
            await until(lambda: open_files(node.pid), lambda number: number <= before + 2)
        assert "Traceback" not in node.log
    print(f"{SLOW} slow clients were ended; {served} produces meanwhile")

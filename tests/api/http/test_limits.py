"""Limits of bodies and records."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx2

    from app.storage.db.transaction import Tx
    from tests.serving import Serve

pytestmark = pytest.mark.anyio

ORDERS = "/v1/topics/orders"
URL = f"{ORDERS}/partitions/0/records"
JSON = {"Content-Type": "application/json"}
GZIP = {"Content-Encoding": "gzip"}
SMALL = 10_000
ZIPPED = gzip.compress(b'{"value":1}', mtime=0)
"""Without a modification time, which would change the ids of the tests."""


@pytest.fixture
async def small(serve: Serve) -> httpx2.AsyncClient:
    """A client of a server that accepts bodies of at most 10,000 bytes."""
    _, client = await serve(max_body_bytes=SMALL)
    return client


def value_of(size: int) -> bytes:
    """Return the body of a produce request with `size` bytes."""
    return b'{"value":"' + b"x" * (size - 12) + b'"}'


async def in_parts(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 1000):
        yield body[start : start + 1000]


async def test_a_body_at_the_limit_is_accepted_and_a_larger_one_is_413(small: httpx2.AsyncClient) -> None:
    for size, status in ((SMALL, 201), (SMALL + 1, 413), (SMALL * 100, 413)):
        whole = await small.post(URL, content=value_of(size), headers=JSON)
        chunked = await small.post(URL, content=in_parts(value_of(size)), headers=JSON)
        compressed = await small.post(URL, content=gzip.compress(value_of(size)), headers=JSON | GZIP)

        assert [response.status_code for response in (whole, chunked, compressed)] == [status] * 3
    assert (whole.json()["code"], whole.json()["max_bytes"]) == ("REQUEST_TOO_LARGE", SMALL)


@pytest.mark.parametrize("url", [ORDERS, URL])
async def test_a_gzip_bomb_is_413(sqlite_client: httpx2.AsyncClient, url: str) -> None:
    bomb = gzip.compress(b"[" * 200_000_000, compresslevel=1)
    assert len(bomb) < 1_000_000

    response = await sqlite_client.request("PUT" if url == ORDERS else "POST", url, content=bomb, headers=JSON | GZIP)

    assert response.status_code == 413


@pytest.mark.parametrize(
    ("body", "encoding", "status"),
    [
        (ZIPPED, "gzip", 201),
        (ZIPPED, "GZip", 201),
        (ZIPPED, "x-gzip", 201),
        (b'{"value":1}', "identity", 201),
        (b'{"value":1}', "gzip", 400),
        (ZIPPED[:-1], "gzip", 400),
        (ZIPPED[:-8] + b"\0" * 8, "gzip", 400),
        (ZIPPED + b"x", "gzip", 400),
        (b"", "gzip", 400),
        (gzip.compress(ZIPPED, mtime=0), "gzip, gzip", 415),
        (b'{"value":1}', "br", 415),
        (b'{"value":1}', "zstd", 415),
        (b'{"value":1}', "deflate", 415),
    ],
)
async def test_a_body_may_be_compressed_with_gzip_only(
    sqlite_client: httpx2.AsyncClient, body: bytes, encoding: str, status: int
) -> None:
    response = await sqlite_client.post(URL, content=body, headers=JSON | {"Content-Encoding": encoding})

    assert response.status_code == status
    if status == 415:
        assert response.headers["accept-encoding"] == "gzip"


async def test_a_record_above_the_limit_of_the_topic_is_413_with_its_index(client: httpx2.AsyncClient) -> None:
    await client.put(ORDERS, json={"config": {"max_message_bytes": 100}})
    fits = {"key": "k" * 40, "value": "v" * 58}

    accepted = await client.post(URL, json=fits)
    refused = await client.post(URL, json={"records": [fits, fits | {"value": "v" * 59}]})

    assert accepted.status_code == 201
    assert (refused.status_code, refused.json()["code"]) == (413, "MESSAGE_TOO_LARGE")
    assert (refused.json()["errors"][0]["index"], refused.json()["max_message_bytes"]) == (1, 100)
    assert (await client.get(f"{ORDERS}/partitions/0")).json()["log_end_offset"] == 1


async def test_a_key_in_the_query_counts_as_record_bytes(sqlite_client: httpx2.AsyncClient) -> None:
    await sqlite_client.put(ORDERS, json={"config": {"max_message_bytes": 4000}})

    for key_bytes, status in ((3000, 201), (3001, 413)):
        response = await sqlite_client.post(URL, params={"key": "k" * key_bytes}, content=b"x" * 1000)
        assert response.status_code == status


async def test_the_size_of_a_record_is_that_of_its_decoded_bytes(sqlite_client: httpx2.AsyncClient) -> None:
    await sqlite_client.put(ORDERS, json={"config": {"max_message_bytes": 3}})

    for record, status in (
        ({"value": "AAAA", "encoding": "base64"}, 201),
        ({"value": "AAAAAA==", "encoding": "base64"}, 413),
        ({"value": "\u0001\u0001\u0001", "encoding": "text"}, 201),
        ({"value": "éé", "encoding": "text"}, 413),
    ):
        assert (await sqlite_client.post(URL, json=record)).status_code == status


@pytest.mark.parametrize(
    ("record", "field"),
    [
        ({"key": "k" * 4097}, "key"),
        ({"key": "é" * 2049}, "key"),
        ({"headers": [{"name": "n", "value": "v"}] * 51}, "headers"),
        ({"headers": [{"name": "n" * 8_192, "value": "v" * 8_193}]}, "headers"),
        ({"headers": {"n": "é" * 8_192}}, "headers"),
    ],
    ids=["key", "key in UTF-8", "headers", "bytes of headers", "bytes of headers in UTF-8"],
)
async def test_a_key_or_headers_above_their_limit_are_refused(
    sqlite_client: httpx2.AsyncClient, record: dict[str, Any], field: str
) -> None:
    response = await sqlite_client.post(URL, json={"records": [{"value": 1}, {"value": 1} | record]})

    assert (response.status_code, response.json()["code"]) == (422, "INVALID_RECORD")
    assert (response.json()["errors"][0]["index"], response.json()["errors"][0]["field"]) == (1, field)


async def test_a_key_and_headers_at_their_limit_are_stored(client: httpx2.AsyncClient) -> None:
    records: list[dict[str, Any]] = [
        {"key": "k" * 4096, "value": 1},
        {"key": None, "value": 1, "headers": [{"name": "n", "value": "v"}] * 50},
        {"key": None, "value": 1, "headers": [{"name": "n" * 8_192, "value": "v" * 8_192}]},
    ]

    response = await client.post(URL, json={"records": records})

    assert response.status_code == 201, response.text
    assert [
        {name: value for name, value in record.items() if name in {"key", "value", "headers"}}
        for record in (await client.get(URL)).json()["records"]
    ] == records


async def test_a_request_has_at_most_ten_thousand_records(sqlite_client: httpx2.AsyncClient) -> None:
    for count, status in ((10_000, 201), (10_001, 422), (0, 422)):
        body = json.dumps({"records": [{"value": 1}] * count})
        assert (await sqlite_client.post(URL, content=body, headers=JSON)).status_code == status
        lines = b'{"value":1}\n' * count
        assert (await sqlite_client.post(f"{URL}?lines=records", content=lines, headers=JSON)).status_code == status
    assert (await sqlite_client.get(f"{ORDERS}/partitions/0")).json()["log_end_offset"] == 20_000


@pytest.mark.parametrize(("timestamp_ms", "status"), [(0, 201), (-1, 422), (2**63, 422), (10**40, 422)])
async def test_a_timestamp_is_not_before_1970(
    sqlite_client: httpx2.AsyncClient, timestamp_ms: int, status: int
) -> None:
    response = await sqlite_client.post(URL, json={"records": [{"value": 1, "timestamp_ms": timestamp_ms}]})

    assert response.status_code == status


async def test_a_timestamp_is_at_most_one_hour_ahead(client: httpx2.AsyncClient) -> None:
    now_ms = (await client.post(URL, json={"value": 1})).json()["offsets"][0]["timestamp_ms"]

    near = await client.post(URL, json={"value": 1, "timestamp_ms": now_ms + 3_590_000})
    far = await client.post(
        URL, json={"records": [{"value": 1}, {"value": 1, "timestamp_ms": now_ms + 3_700_000}, {"value": 1}]}
    )

    assert near.status_code == 201
    assert (far.status_code, far.json()["code"]) == (422, "INVALID_TIMESTAMP")
    assert far.json()["errors"][0]["index"] == 1
    assert (await client.get(f"{ORDERS}/partitions/0")).json()["log_end_offset"] == 2


async def test_on_a_full_disk_appends_are_507_and_reads_and_deletions_work(serve: Serve) -> None:
    application, client = await serve()
    await client.post(URL, json={"value": "kept"})

    def limit(tx: Tx) -> None:
        present = tx.connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        tx.connection.exec_driver_sql(f"PRAGMA max_page_count = {present + 20}")

    await application.services.storage.write(limit)
    refused = await client.post(URL, json={"value": "x" * 200_000})

    assert (refused.status_code, refused.json()["code"]) == (507, "KAFKA_STORAGE_ERROR")
    assert (refused.json()["retriable"], refused.headers["retry-after"]) == (True, "1")
    assert [record["value"] for record in (await client.get(URL)).json()["records"]] == ["kept"]
    assert (await client.delete(URL, params={"before_offset": 1})).json() == {"log_start_offset": 1}
    assert (await client.delete(ORDERS)).status_code == 204

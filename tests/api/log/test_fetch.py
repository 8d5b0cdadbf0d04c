"""Fetch over HTTP."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
import zstandard

from tests.waiting import DEADLINE_S, until_true

if TYPE_CHECKING:
    import httpx2

    from app.main import Application
    from tests.serving import Serve

pytestmark = pytest.mark.anyio

ORDERS = "/v1/topics/orders"
URL = f"{ORDERS}/partitions/0/records"
TOPIC_URL = f"{ORDERS}/records"
DAY = 1_517_356_800_000  # 2018-01-31T00:00:00Z


async def fill(client: httpx2.AsyncClient, *times: int, partition: int = 0) -> None:
    records = [{"value": at, "timestamp_ms": DAY + at, "partition": partition} for at in times]
    assert (await client.post(TOPIC_URL, json={"records": records})).status_code == 201


async def page(client: httpx2.AsyncClient, url: str = URL, **params: Any) -> Any:
    response = await client.get(url, params=params)
    assert response.status_code == 200, response.text
    return response.json()


def values(answer: Any) -> list[Any]:
    return [record["value"] for record in answer["records"]]


async def test_a_page_has_its_records_and_the_bounds(client: httpx2.AsyncClient) -> None:
    await client.post(URL, json={"key": "uw", "value": {"magnitude": 0.31}, "timestamp_ms": DAY, "headers": {"n": "v"}})

    assert await page(client) == {
        "records": [
            {
                "partition": 0,
                "offset": 0,
                "timestamp_ms": DAY,
                "key": "uw",
                "value": {"magnitude": 0.31},
                "headers": [{"name": "n", "value": "v"}],
            }
        ],
        "next_offset": 1,
        "log_start_offset": 0,
        "log_end_offset": 1,
    }


OFFSET_SPECS = {
    "earliest": [30, 10, 50, 40],
    "latest": [],
    "-1": [40],
    "-2": [50, 40],
    "-9223372036854775807": [30, 10, 50, 40],
    "-0": [],
    f"@{DAY}": [30, 10, 50, 40],
    f"@{DAY + 31}": [50, 40],
    f"@{DAY + 51}": [],
    "@2018-01-31T00:00:00.045Z": [50, 40],
    "@2018-01-31T01:00:00.045+01:00": [50, 40],
    "@2018-01-31T01:00:00.045 01:00": [50, 40],
}
OFFSETS = {"0": [30, 10, 50, 40], "3": [40], "4": []}


async def test_a_read_starts_at_its_offset_spec(client: httpx2.AsyncClient) -> None:
    await fill(client, 30, 10, 50, 40)

    of_partition = {offset: values(await page(client, offset=offset)) for offset in OFFSET_SPECS | OFFSETS}
    of_topic = {offset: values(await page(client, TOPIC_URL, offset=offset)) for offset in OFFSET_SPECS}

    assert of_partition == OFFSET_SPECS | OFFSETS
    assert of_topic == OFFSET_SPECS


async def test_a_plus_in_a_time_may_come_as_a_blank(client: httpx2.AsyncClient) -> None:
    await fill(client, 30, 50)

    response = await client.get(f"{URL}?offset=@2018-01-31T01:00:00.045+01:00")

    assert values(response.json()) == [50]


async def test_a_page_is_bounded_in_records_and_bytes_but_never_empty(client: httpx2.AsyncClient) -> None:
    await client.post(URL, json={"records": [{"value": "x" * 98}] * 4})

    assert len((await page(client, max_records=3))["records"]) == 3
    assert len((await page(client, max_bytes=200))["records"]) == 2
    assert len((await page(client, max_bytes=299))["records"]) == 2
    one = await page(client, max_bytes=1)
    assert (len(one["records"]), one["next_offset"], one["log_end_offset"]) == (1, 1, 4)
    assert len((await page(client, TOPIC_URL, max_bytes=1))["records"]) == 1


async def test_an_offset_out_of_range_is_refused_with_the_bounds_or_reset(client: httpx2.AsyncClient) -> None:
    await fill(client, 1, 2, 3)
    await client.delete(URL, params={"before_offset": 1})

    for offset, status in ((0, 410), (4, 416), (2**63 - 1, 416)):
        response = await client.get(URL, params={"offset": offset})
        assert response.status_code == status
        problem = response.json()
        assert (problem["code"], problem["log_start_offset"], problem["log_end_offset"]) == (
            "OFFSET_OUT_OF_RANGE",
            1,
            3,
        )
        assert values(await page(client, offset=offset, offset_reset="earliest")) == [2, 3]
        assert (await page(client, offset=offset, offset_reset="latest"))["next_offset"] == 3


async def test_next_links_read_the_whole_partition(client: httpx2.AsyncClient) -> None:
    await fill(client, *range(10))
    url, seen = f"{URL}?max_records=4&offset=-7&max_wait_ms=1", []
    while True:
        response = await client.get(url)
        seen += values(response.json())
        link = response.links["next"]["url"]
        if not response.json()["records"]:
            break
        assert "max_records=4" in link
        url = link

    assert seen == list(range(3, 10))


async def test_cursors_and_next_links_read_the_whole_topic(client: httpx2.AsyncClient) -> None:
    for partition in range(4):
        await fill(client, *range(partition, 40, 4), partition=partition)

    by_cursor: list[Any] = []
    answer = await page(client, TOPIC_URL, max_records=7)
    while answer["records"]:
        by_cursor += values(answer)
        answer = await page(client, TOPIC_URL, max_records=7, cursor=answer["next_cursor"])
    by_link: list[Any] = []
    response = await client.get(TOPIC_URL, params={"max_records": 9}, headers={"Accept": "application/x-ndjson"})
    while response.text:
        by_link += [json.loads(line)["value"] for line in response.text.splitlines()]
        response = await client.get(response.links["next"]["url"], headers={"Accept": "application/x-ndjson"})

    assert sorted(by_cursor) == sorted(by_link) == list(range(40))
    assert values(await page(client, TOPIC_URL)) == list(range(40))
    assert sorted(values(await page(client, TOPIC_URL, offset="-2"))) == list(range(32, 40))


async def test_an_invalid_or_expired_cursor_is_refused(client: httpx2.AsyncClient) -> None:
    await fill(client, 1, 2)
    cursor = (await page(client, TOPIC_URL, max_records=1))["next_cursor"]
    await client.put("/v1/topics/other")

    both = await client.get(TOPIC_URL, params={"cursor": cursor, "offset": "latest"})
    garbage = await client.get(TOPIC_URL, params={"cursor": "abc"})
    empty = await client.get(TOPIC_URL, params={"cursor": ""})
    other = await client.get("/v1/topics/other/records", params={"cursor": cursor})
    await client.delete(URL, params={"before_offset": 2})
    below = await client.get(TOPIC_URL, params={"cursor": cursor})
    reset = await page(client, TOPIC_URL, cursor=cursor, offset_reset="earliest")
    await client.delete(ORDERS)
    deleted = await client.get(TOPIC_URL, params={"cursor": cursor})

    assert [response.status_code for response in (both, garbage, empty, other, below, deleted)] == [
        422, 400, 400, 410, 410, 410,
    ]  # fmt: skip
    assert (garbage.json()["code"], deleted.json()["code"]) == ("INVALID_CURSOR", "UNKNOWN_TOPIC_ID")
    assert (below.json()["code"], below.json()["partition"]) == ("OFFSET_OUT_OF_RANGE", 0)
    assert reset["records"] == []


async def test_ndjson_has_one_record_a_line_even_if_a_value_has_line_breaks(client: httpx2.AsyncClient) -> None:
    headers = {"Content-Type": "application/json"}
    await client.post(URL, content=b'{"value":{"a":\r\n[1,\n2]}}', headers=headers)
    await client.post(URL, json={"value": "two\nlines", "encoding": "text"})

    whole = await client.get(URL)
    lines = await client.get(URL, headers={"Accept": "application/x-ndjson"})

    assert '{"a":\r\n[1,\n2]}' in whole.text
    assert lines.headers["content-type"] == "application/x-ndjson"
    assert [json.loads(line)["value"] for line in lines.text.splitlines()] == [{"a": [1, 2]}, "two\nlines"]
    assert '{"a":  [1, 2]}' in lines.text
    assert lines.text.endswith("\n")


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("gzip", "gzip"),
        ("zstd", "zstd"),
        ("gzip, zstd", "zstd"),
        ("GZIP;q=0.5", "gzip"),
        ("gzip;q=0", None),
        ("br", None),
        ("identity", None),
        ("zstd;q=0, gzip;q=1", "gzip"),
    ],
)
async def test_answers_have_a_coding_that_the_client_accepts(
    sqlite_client: httpx2.AsyncClient, accepted: str, coding: str | None
) -> None:
    await sqlite_client.post(URL, json={"records": [{"value": "x" * 100}] * 20})
    async with sqlite_client.stream("GET", URL, headers={"Accept-Encoding": accepted}) as response:
        body = b"".join([part async for part in response.aiter_raw()])

    assert response.headers.get("content-encoding") == coding
    assert "accept-encoding" in response.headers["vary"]
    if coding == "gzip":
        body = gzip.decompress(body)
    elif coding == "zstd":
        body = zstandard.ZstdDecompressor().decompressobj().decompress(body)
    assert len(json.loads(body)["records"]) == 20


async def test_an_offset_out_of_range_names_the_offsets_that_there_are(sqlite_client: httpx2.AsyncClient) -> None:
    url = "/v1/topics/orders/partitions/0/records"
    await sqlite_client.put("/v1/topics/orders")

    async def detail() -> str:
        response = await sqlite_client.get(url, params={"offset": 9})
        return str(response.json()["detail"].partition(";")[0])

    assert await detail() == "partition 0 has no records, and the next record gets 0"
    await sqlite_client.post(url, json={"records": [{"value": 1}, {"value": 2}]})
    assert await detail() == "partition 0 has the offsets 0 to 1, and the next record gets 2"
    await sqlite_client.delete(url, params={"before_offset": 2})
    assert await detail() == "partition 0 has no records, and the next record gets 2"


async def test_a_head_is_a_get_without_its_body(sqlite_client: httpx2.AsyncClient) -> None:
    await fill(sqlite_client, 1)

    for url in (URL, TOPIC_URL, ORDERS, "/healthz", "/"):
        head, get = await sqlite_client.head(url), await sqlite_client.get(url)
        ignored = {"x-request-id", "date"}
        assert head.status_code == get.status_code == 200
        assert {k: v for k, v in head.headers.items() if k not in ignored} == {
            k: v for k, v in get.headers.items() if k not in ignored
        }


async def waiting(application: Application, reads: int) -> None:
    """Return when this number of reads wait."""
    await until_true(lambda: application.services.signals.waiting >= reads)


async def test_a_long_poll_is_answered_by_an_append(serve: Serve, migrated_url: str) -> None:
    application, client = await serve(database_url=migrated_url)
    await client.put(ORDERS)
    polls = [asyncio.create_task(page(client, url, max_wait_ms=20_000)) for url in (URL, TOPIC_URL)]
    await waiting(application, 2)
    assert "millrace_waiting_reads 2.0" in (await client.get("/metrics")).text

    await fill(client, 7)

    assert [values(await poll) for poll in polls] == [[7], [7]]


async def test_a_long_poll_ends_with_the_records_so_far(client: httpx2.AsyncClient) -> None:
    await fill(client, 1)
    started = time.monotonic()

    answer = await page(client, max_wait_ms=50, min_bytes=1000)

    assert time.monotonic() - started >= 0.05
    assert values(answer) == [1]


async def test_a_stopping_server_answers_waiting_reads(serve: Serve) -> None:
    application, client = await serve()
    await client.put(ORDERS)
    poll = asyncio.create_task(page(client, max_wait_ms=20_000))
    await waiting(application, 1)

    application.stop()

    assert values(await poll) == []
    assert (await client.get("/readyz")).status_code == 503


async def test_a_disconnect_of_the_client_ends_its_read(serve: Serve) -> None:
    application, client = await serve()
    await client.put(ORDERS)
    disconnected = asyncio.Event()
    sent: list[Any] = []

    async def receive() -> Any:
        await disconnected.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http",
        "path": URL, "raw_path": URL.encode(), "query_string": b"max_wait_ms=20000", "root_path": "",
        "headers": [(b"host", b"localhost")], "client": None, "server": None,
    }  # fmt: skip
    task = asyncio.ensure_future(application.asgi(scope, receive, send))
    await waiting(application, 1)
    disconnected.set()
    await asyncio.wait_for(task, DEADLINE_S)

    assert application.services.signals.waiting == 0


@pytest.mark.parametrize(
    "query",
    [
        "offset=", "offset=+1", "offset=9223372036854775808", "offset=1.0", "offset=first", "offset=" + "1" * 65,
        "offset=@", "offset=@-1", "max_records=0", "max_records=10001", "max_records=1e3", "max_records=1.0",
        "max_records=", "max_records=true", "max_records=99999999999999999999", "max_bytes=0", "max_bytes=33554433",
        "min_bytes=-1", "min_bytes=1048577", "min_bytes=5&max_bytes=4", "max_wait_ms=-1", "max_wait_ms=60001",
        "offset_reset=none", "limit=1", "max_records=1&max_records=1", "offset=earliest&offset=latest", "=", "x",
    ],
)  # fmt: skip
async def test_a_parameter_out_of_bounds_is_refused_by_name(sqlite_client: httpx2.AsyncClient, query: str) -> None:
    await fill(sqlite_client, 1)

    for url in (URL, TOPIC_URL):
        response = await sqlite_client.get(f"{url}?{query}")

        assert response.status_code == 422, response.text
        assert query.partition("=")[0].split("&")[0] in response.text or "twice" in response.text


async def test_settings_lower_the_bounds(serve: Serve) -> None:
    _, client = await serve(max_records=5, max_wait_ms=10)
    await client.put(ORDERS)

    too_many = await client.post(URL, json={"records": [{"value": 1}] * 6})
    wide = await client.get(URL, params={"max_records": 6})
    long = await client.get(URL, params={"max_wait_ms": 11})

    assert [response.status_code for response in (too_many, wide, long)] == [422, 422, 422]
    assert wide.json()["errors"] == [{"field": "max_records", "detail": "must be at most 5"}]
    assert (await client.get(URL)).status_code == 200


@pytest.mark.parametrize("partition", ["4", "-1", "99999999999999999999", "1_0", "+1", "%201", "x", "1.0", "٣"])
async def test_an_unknown_or_malformed_partition_is_refused(sqlite_client: httpx2.AsyncClient, partition: str) -> None:
    await sqlite_client.put(ORDERS)

    for method, path in (
        ("GET", "/records"),
        ("POST", "/records"),
        ("GET", ""),
        ("DELETE", "/records?before_offset=0"),
    ):
        response = await sqlite_client.request(method, f"{ORDERS}/partitions/{quote(partition, safe='%')}{path}")
        assert response.status_code in {404, 422}, (method, path, response.text)


async def test_an_unknown_topic_is_404(client: httpx2.AsyncClient) -> None:
    for url in (URL, TOPIC_URL, ORDERS, f"{ORDERS}/partitions", f"{ORDERS}/partitions/0"):
        response = await client.get(url, params={})
        assert (response.status_code, response.json()["code"]) == (404, "UNKNOWN_TOPIC_OR_PARTITION")


async def test_a_partition_added_under_a_cursor_starts_at_0_or_is_410(
    sqlite_client: httpx2.AsyncClient,
) -> None:
    topic = "/v1/topics/grown"
    await sqlite_client.put(topic, json={"partitions": 1})
    cursor = (await sqlite_client.get(f"{topic}/records")).json()["next_cursor"]
    await sqlite_client.patch(topic, json={"partitions": 2})
    for value in range(3):
        await sqlite_client.post(f"{topic}/partitions/1/records", json={"value": value})

    page = (await sqlite_client.get(f"{topic}/records", params={"cursor": cursor})).json()
    await sqlite_client.delete(f"{topic}/partitions/1/records", params={"before_offset": 2})
    below = await sqlite_client.get(f"{topic}/records", params={"cursor": cursor})

    assert [record["value"] for record in page["records"]] == [0, 1, 2]
    assert (below.status_code, below.json()["log_start_offset"]) == (410, 2)


async def test_large_records_of_many_partitions_are_read_in_turns(sqlite_client: httpx2.AsyncClient) -> None:
    topic = "/v1/topics/large"
    await sqlite_client.put(topic, json={"partitions": 5})
    for partition in range(5):
        for _ in range(2):
            await sqlite_client.post(f"{topic}/partitions/{partition}/records", json={"value": "x" * 1000})

    seen: list[int] = []
    cursor: dict[str, str] = {}
    for _ in range(10):
        page = (await sqlite_client.get(f"{topic}/records", params={"max_bytes": "1"} | cursor)).json()
        seen += [record["partition"] for record in page["records"]]
        cursor = {"cursor": page["next_cursor"]}

    assert sorted(seen) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


async def test_an_operation_without_parameters_refuses_them(sqlite_client: httpx2.AsyncClient) -> None:
    refused = await sqlite_client.put("/v1/topics/orders?partitions=8")

    assert refused.status_code == 422
    assert (await sqlite_client.get("/v1/topics/orders")).status_code == 404

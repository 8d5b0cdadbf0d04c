"""Streams over HTTP."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

import pytest

from app.errors.log import OffsetBelowLogStart
from tests.broker.node import Node as QuietNode
from tests.streaming import StreamClient, parsed
from tests.waiting import until_true

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx2

    from app.main import Application
    from tests.serving import Serve

pytestmark = pytest.mark.anyio

ORDERS = "/v1/topics/orders"
URL = f"{ORDERS}/partitions/0/records"
TOPIC_URL = f"{ORDERS}/records"
BOTH = (URL, TOPIC_URL)
EVENTS = {"Accept": "text/event-stream"}


class Node:
    """An application with a topic `orders` of two partitions."""

    def __init__(self, application: Application, client: httpx2.AsyncClient) -> None:
        self.application = application
        self.services = application.services
        self.client = client

    def open(self, path: str, **headers: str) -> StreamClient:
        return StreamClient(self.application.asgi, path, **({"Accept": "text/event-stream"} | headers))

    async def produce(self, *values: Any, partition: int = 0) -> None:
        url = f"{ORDERS}/partitions/{partition}/records"
        answer = await self.client.post(url, json={"records": [{"value": value} for value in values]})
        assert answer.status_code == 201, answer.text

    async def read_to_end(self, path: str, **headers: str) -> str:
        """Return the whole text of a stream that has a bound."""
        answer = await self.client.get(path, headers=EVENTS | {k.replace("_", "-"): v for k, v in headers.items()})
        assert answer.status_code == 200, answer.text
        return answer.text

    async def event_ids(self, path: str) -> list[str]:
        return [event.id or "" for event in parsed(await self.read_to_end(path))]

    async def fetched(self, path: str = TOPIC_URL, offset: str = "earliest") -> list[Any]:
        answer = await self.client.get(path, params={"max_records": 10_000, "offset": offset})
        records: list[Any] = answer.json()["records"]
        return records


@pytest.fixture
async def node(migrated_url: str, serve: Serve) -> Node:
    """A node on either database."""
    return await _node(serve, database_url=migrated_url)


@pytest.fixture
async def sqlite_node(serve: Serve) -> Node:
    """A node on SQLite, for behaviour that does not depend on the database."""
    return await _node(serve)


@pytest.fixture
def quiet_node(sqlite_url: str, anyio_backend: str) -> Iterator[QuietNode]:
    """A node without background tasks, with reads that can fail."""
    each = QuietNode(sqlite_url)
    yield each
    each.storage.close()


async def _node(serve: Serve, **settings: Any) -> Node:
    application, client = await serve(**settings)
    await client.put(ORDERS, json={"partitions": 2})
    return Node(application, client)


@pytest.mark.parametrize("url", BOTH)
async def test_a_stream_begins_with_an_id_and_then_has_each_record_as_in_fetch(node: Node, url: str) -> None:
    await node.produce("old")

    async with node.open(url) as stream:
        first = await stream.event()
        await node.produce(1, {"a": [2]})
        second, third = await stream.records(2)

        assert stream.status == 200
        assert stream.headers["content-type"] == "text/event-stream"
        assert stream.headers["cache-control"] == "no-store"
        assert "content-length" not in stream.headers
        assert "content-encoding" not in stream.headers
    assert first.id
    assert (first.data, first.event, first.comment) == (None, None, None)
    assert len({first.id, second.id, third.id}) == 3
    assert (second.event, third.event) == (None, None)
    assert [second.record, third.record] == await node.fetched(url, "-2")


async def test_a_stream_starts_at_its_offset_or_cursor_and_by_default_at_the_end(node: Node) -> None:
    await node.produce(1, 2, 3)

    async def values(query: str, url: str = URL) -> list[Any]:
        text = await node.read_to_end(f"{url}?max_wait_ms=0&{query}")
        return [event.record["value"] for event in parsed(text) if event.data]

    assert await values("") == []
    assert await values("offset=latest") == []
    assert await values("offset=earliest") == [1, 2, 3]
    assert await values("offset=1") == [2, 3]
    assert await values("offset=-1", TOPIC_URL) == [3]
    assert await values("offset=@0", TOPIC_URL) == [1, 2, 3]
    cursor = (await node.client.get(TOPIC_URL, params={"max_records": 1})).json()["next_cursor"]
    assert await values(f"cursor={cursor}", TOPIC_URL) == [2, 3]


@pytest.mark.parametrize("url", BOTH)
async def test_a_stream_ends_after_max_events(node: Node, url: str) -> None:
    await node.produce(*range(5))

    for number in (1, 4, 5):
        text = await node.read_to_end(f"{url}?offset=earliest&max_events={number}")
        assert [event.record["value"] for event in list(parsed(text))[1:]] == list(range(number))
    async with node.open(f"{url}?offset=earliest&max_events=7") as stream:
        await stream.records(6)
        await node.produce("6th", "7th", "8th")
        last = [event.record["value"] for event in parsed(await stream.rest())]
    assert last == ["6th", "7th"]
    lines = await node.client.get(f"{url}?follow=true&offset=earliest&max_events=2")
    assert [json.loads(line)["value"] for line in lines.text.splitlines()] == [0, 1]


@pytest.mark.parametrize("url", BOTH)
async def test_a_stream_ends_after_max_wait_ms(node: Node, url: str) -> None:
    async with node.open(f"{url}?max_wait_ms=200") as stream:
        await node.produce(1)
        text = await stream.rest()

    assert [event.record["value"] for event in list(parsed(text))[1:]] == [1]
    assert (await node.client.get(f"{url}?follow=true&max_wait_ms=1")).text == ""


async def test_max_wait_ms_has_a_bound_for_a_page_and_none_for_a_stream(sqlite_node: Node) -> None:
    for milliseconds in (60_001, 2**63 - 1):
        async with sqlite_node.open(f"{URL}?max_wait_ms={milliseconds}") as stream:
            await stream.event()
            await sqlite_node.produce(1)
            assert (await stream.event()).record["value"] == 1
        page = await sqlite_node.client.get(f"{URL}?max_wait_ms={milliseconds}")
        assert (page.status_code, page.json()["errors"][0]["field"]) == (422, "max_wait_ms")


@pytest.mark.parametrize("url", BOTH)
async def test_follow_streams_new_records_one_a_line(node: Node, url: str) -> None:
    await node.produce("old")

    async with StreamClient(node.application.asgi, f"{url}?follow=true") as stream:
        assert stream.headers["content-type"] == "application/x-ndjson"
        await node.client.post(URL, content=b'{"value":{"a":\r\n1}}', headers={"Content-Type": "application/json"})
        await node.client.post(URL, json={"value": "two\nlines", "encoding": "text"})
        found = [await stream.line(), await stream.line()]

    assert found == await node.fetched(url, "-2")


@pytest.mark.parametrize("url", BOTH)
async def test_a_stream_that_is_cut_continues_without_loss_or_repeat(node: Node, url: str) -> None:
    rng = random.Random(7)
    for number in range(120):
        await node.produce(*[f"{number}.{i}" for i in range(rng.randint(1, 9))], partition=number % 2)
    expected = {
        (record["partition"], record["offset"]) for record in await node.fetched() if url is TOPIC_URL or
        record["partition"] == 0
    }  # fmt: skip

    seen: list[tuple[int, int]] = []
    last = ""
    while len(seen) < len(expected):
        resumed = {"Last_Event_ID": last} if last else {}
        async with node.open(f"{url}?offset=earliest", **resumed) as stream:
            for _ in range(rng.randint(1, 60)):
                if len(seen) == len(expected):
                    break
                event = await stream.event()
                last = event.id or last
                if event.data is not None:
                    seen.append((event.record["partition"], event.record["offset"]))

    assert len(seen) == len(set(seen))
    assert set(seen) == expected
    for partition in (0, 1):
        offsets = [offset for number, offset in seen if number == partition]
        assert offsets == sorted(offsets)


async def test_last_event_id_wins_over_offset_and_cursor(node: Node) -> None:
    await node.produce(1, 2, 3)
    events = list(parsed(await node.read_to_end(f"{TOPIC_URL}?offset=earliest&max_events=2")))
    cursor = (await node.client.get(TOPIC_URL, params={"max_records": 1})).json()["next_cursor"]
    assert events[-1].id is not None

    for query in ("offset=earliest", f"cursor={cursor}", f"cursor={cursor}&offset=earliest", ""):
        text = await node.read_to_end(f"{TOPIC_URL}?{query}&max_wait_ms=0", Last_Event_ID=events[-1].id)
        assert [event.record["value"] for event in list(parsed(text))[1:]] == [3]
    lines = await node.client.get(f"{URL}?follow=true&max_wait_ms=0", headers={"Last-Event-ID": events[-1].id})
    assert json.loads(lines.text)["value"] == 3


async def test_event_ids_of_a_topic_and_of_a_partition_work_for_both_kinds_of_stream(node: Node) -> None:
    await node.produce("a0", "a1")
    await node.produce("b0", "b1", partition=1)

    async def values(url: str, last: str, offset: str = "latest") -> list[Any]:
        text = await node.read_to_end(f"{url}?max_wait_ms=0&offset={offset}", Last_Event_ID=last)
        return sorted(event.record["value"] for event in list(parsed(text))[1:])

    of_topic = await node.event_ids(f"{TOPIC_URL}?offset=earliest&max_wait_ms=0")
    of_partition = await node.event_ids(f"{URL}?offset=earliest&max_wait_ms=0")
    assert await values(URL, of_topic[0]) == ["a0", "a1"]
    assert await values(URL, of_topic[4]) == []
    assert await values(TOPIC_URL, of_partition[1]) == ["a1"]
    assert await values(TOPIC_URL, of_partition[1], "earliest") == ["a1", "b0", "b1"]
    page = await node.client.get(TOPIC_URL, params={"cursor": of_partition[1]})
    assert sorted(record["value"] for record in page.json()["records"]) == ["a1", "b0", "b1"]
    other = await node.client.get(f"{ORDERS}/partitions/1/records", headers=EVENTS | {"Last-Event-ID": of_partition[1]})
    assert (other.status_code, other.json()["code"]) == (400, "INVALID_CURSOR")


async def test_an_invalid_start_is_answered_by_a_problem_instead_of_a_stream(node: Node) -> None:
    await node.produce(1, 2, 3)
    of_topic = await node.event_ids(f"{TOPIC_URL}?offset=earliest&max_events=1")
    of_partition = await node.event_ids(f"{URL}?offset=earliest&max_events=1")
    await node.client.delete(URL, params={"before_offset": 2})

    async def refused(url: str, **headers: str) -> tuple[int, str]:
        named = EVENTS | {name.replace("_", "-"): value for name, value in headers.items()}
        answer = await node.client.get(url, headers=named)
        assert answer.headers["content-type"] == "application/problem+json"
        follow = await node.client.get(url, params={"follow": "true"} if "?" not in url else None, headers=named)
        assert follow.json()["code"] == answer.json()["code"]
        return answer.status_code, answer.json()["code"]

    assert await refused("/v1/topics/nothing/records") == (404, "UNKNOWN_TOPIC_OR_PARTITION")
    assert await refused(f"{ORDERS}/partitions/2/records") == (404, "UNKNOWN_TOPIC_OR_PARTITION")
    assert await refused(f"{URL}?offset=1") == (410, "OFFSET_OUT_OF_RANGE")
    assert await refused(f"{URL}?offset=9") == (416, "OFFSET_OUT_OF_RANGE")
    assert await refused(f"{URL}?offset=x") == (422, "INVALID_REQUEST")
    assert await refused(f"{URL}?max_events=0") == (422, "INVALID_REQUEST")
    for url, known in (
        (URL, of_partition),
        (TOPIC_URL, of_topic),
        (URL, of_topic),
        (TOPIC_URL, of_partition),
    ):
        assert await refused(url, Last_Event_ID="x") == (400, "INVALID_CURSOR")
        assert await refused(url, Last_Event_ID=known[1]) == (410, "OFFSET_OUT_OF_RANGE")
        text = await node.read_to_end(f"{url}?offset_reset=earliest&max_wait_ms=0", Last_Event_ID=known[1])
        assert [event.record["value"] for event in list(parsed(text))[1:]] == [3]
    for _ in range(2):
        await node.client.delete(ORDERS)
        for url, known in ((URL, of_partition), (TOPIC_URL, of_topic)):
            assert await refused(url, Last_Event_ID=known[1]) == (410, "UNKNOWN_TOPIC_ID")
        await node.client.put(ORDERS)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("max_events=1", "max_events belongs to a stream"),
        ("follow=true&max_records=1", "max_records belongs to a page; a stream has max_events"),
        ("follow=yes", "follow"),
        ("follow=", ""),
    ],
)
async def test_parameters_of_the_other_kind_of_answer_are_refused(sqlite_node: Node, query: str, field: str) -> None:
    for url in BOTH:
        answer = await sqlite_node.client.get(f"{url}?{query}")
        assert answer.status_code == 422
        assert field in answer.json()["detail"]
    assert (await sqlite_node.client.get(f"{URL}?follow=false")).json()["records"] == []


@pytest.mark.parametrize("url", BOTH)
async def test_a_stream_whose_next_record_was_deleted_ends_with_the_problem(node: Node, url: str) -> None:
    await node.produce(*range(300))

    async with node.open(f"{url}?offset=earliest") as stream:
        await stream.event()
        await node.client.delete(URL, params={"before_offset": 299})
        *events, last = parsed(await stream.rest())
    assert [event.record["offset"] for event in events] == list(range(250))
    assert (last.event, last.id) == ("error", None)
    problem = last.record
    assert (problem["status"], problem["code"], problem["log_start_offset"]) == (410, "OFFSET_OUT_OF_RANGE", 299)
    assert problem["request_id"] == stream.headers["x-request-id"]


@pytest.mark.parametrize("url", BOTH)
async def test_with_offset_reset_a_stream_continues_after_deleted_records(node: Node, url: str) -> None:
    await node.produce(*range(300))

    async with node.open(f"{url}?offset=earliest&offset_reset=earliest") as stream:
        await stream.event()
        await node.client.delete(URL, params={"before_offset": 299})
        events = await stream.records(251)
    assert [event.record["offset"] for event in events] == [*range(250), 299]


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("url", BOTH)
async def test_a_deleted_topic_ends_its_streams_with_the_problem(node: Node, url: str, again: bool) -> None:
    async with node.open(url) as stream, StreamClient(node.application.asgi, f"{url}?follow=true") as lines:
        await stream.event()
        await node.client.delete(ORDERS)
        if again:
            await node.client.put(ORDERS, json={"partitions": 2})
            await node.produce("of another topic")
        (event,) = parsed(await stream.rest())
        line = json.loads(await lines.rest())
    assert event.event == "error"
    assert event.record["code"] == line["code"] == "UNKNOWN_TOPIC_OR_PARTITION"
    assert event.record["status"] == 404
    assert node.services.signals.waiting == 0


async def test_every_kind_of_value_is_one_line_of_data_equal_to_fetch(node: Node) -> None:
    headers = {"Content-Type": "application/json"}
    for body in (
        b'{"value":{"a":\r\n[1,\n2 ,\r3]},"headers":\n{"n":\n"v\\nw"},\n"key":"k\\nl"}',
        b'{"value":"two\\nlines\\r\\n","encoding":"text"}',
        b'{"value":"//4A","encoding":"base64","key":"AP8=","key_encoding":"base64"}',
        b'{"value":null,"key":"gone"}',
        '{"value":"é\u2028\u0085"}'.encode(),
    ):
        assert (await node.client.post(URL, content=body, headers=headers)).status_code == 201

    events = list(parsed(await node.read_to_end(f"{URL}?offset=earliest&max_events=5")))[1:]

    assert [event.record for event in events] == await node.fetched(URL)
    assert '{"a":  [1, 2 , 3]}' in (events[0].data or "")


async def test_a_stream_of_events_has_a_comment_once_in_an_interval(serve: Serve) -> None:
    node = await _node(serve, stream_comment_interval_ms=20)

    async with node.open(URL) as stream:
        await stream.event()
        comments = [await stream.event() for _ in range(3)]
        await node.produce(1)
        assert (await stream.records(1))[0].record["value"] == 1
        assert (await stream.event()).comment == ""
    assert [event.comment for event in comments] == ["", "", ""]


async def test_a_silent_stream_of_lines_has_a_blank_line_once_in_an_interval(serve: Serve) -> None:
    node = await _node(serve, stream_comment_interval_ms=20)

    for path in (URL, f"{ORDERS}/records"):
        async with StreamClient(node.application.asgi, f"{path}?follow=true") as stream:
            assert [await stream.text("\n") for _ in range(3)] == ["\n", "\n", "\n"]
            await node.produce("new")
            while (line := await stream.text("\n")) == "\n":
                pass
            assert json.loads(line)["value"] == "new"
            assert await stream.text("\n") == "\n"


async def test_a_client_that_disconnects_ends_its_stream_and_its_read_at_once(node: Node) -> None:
    streams = [node.open(url) for url in BOTH * 5]
    for stream in streams:
        await stream.__aenter__()
        await stream.event()
    signals = node.services.signals
    await until_true(lambda: node.services.streams.reads == signals.waiting == signals.parked == 2)
    metrics = (await node.client.get("/metrics")).text
    assert "millrace_open_streams 10.0" in metrics
    assert "millrace_waiting_reads 2.0" in metrics

    for stream in streams:
        await stream.leave()

    assert (node.services.streams.open, node.services.streams.reads) == (0, 0)
    await until_true(lambda: signals.waiting == 0)


async def test_a_stream_waits_for_a_slow_client_and_keeps_one_page_for_it(node: Node) -> None:
    await node.produce(*["x" * 1000] * 2000)

    async with node.open(f"{URL}?offset=earliest") as slow:
        await slow.records(2)
        async with node.open(f"{URL}?offset=earliest") as quick:
            assert len(await quick.records(2001)) == 2001
        assert node.services.streams.reads == 0
        assert slow.unread_messages == 1
        assert slow.unread_characters < 100_000
        assert len(await slow.records(1999)) == 1999


async def test_a_head_request_gets_the_headers_without_a_stream(sqlite_node: Node) -> None:
    head = await sqlite_node.client.head(URL, headers=EVENTS)
    async with StreamClient(sqlite_node.application.asgi, URL, method="HEAD", Accept="text/event-stream") as stream:
        assert await stream.rest() == ""

    assert (head.status_code, head.headers["content-type"]) == (200, "text/event-stream")
    assert "content-length" not in head.headers
    assert (await sqlite_node.client.head("/v1/topics/nothing/records", headers=EVENTS)).status_code == 404
    assert sqlite_node.services.streams.open == 0


async def test_a_stopping_server_ends_its_streams_without_a_problem(node: Node) -> None:
    async with node.open(URL) as stream, StreamClient(node.application.asgi, f"{URL}?follow=true") as lines:
        await stream.event()
        node.application.stop()
        assert await stream.rest() == ""
        assert await lines.rest() == ""


async def test_an_added_partition_is_streamed_from_its_start(node: Node) -> None:
    async with node.open(TOPIC_URL) as stream:
        await stream.event()
        await node.client.patch(ORDERS, json={"partitions": 3})
        await node.produce("new", partition=2)
        (event,) = await stream.records(1)
        await node.produce("newer", partition=2)
        await stream.records(1)

    assert event.record["value"] == "new"
    text = await node.read_to_end(f"{TOPIC_URL}?max_wait_ms=0", Last_Event_ID=event.id or "")
    assert [each.record["value"] for each in list(parsed(text))[1:]] == ["newer"]


@pytest.mark.parametrize(
    ("fault", "code"),
    [(RuntimeError("secret"), "UNKNOWN_SERVER_ERROR"), (OffsetBelowLogStart("x"), "OFFSET_OUT_OF_RANGE")],
)
async def test_an_error_during_a_stream_is_its_last_event(quiet_node: QuietNode, fault: Exception, code: str) -> None:
    async def fail() -> None:
        raise fault

    await quiet_node.create()
    async with StreamClient(quiet_node.application.asgi, URL, Accept="text/event-stream") as stream:
        await stream.event()
        await quiet_node.parked()
        quiet_node.after_read = fail
        await quiet_node.produce(b"1")
        (event,) = parsed(await stream.rest())

    assert (event.event, event.record["code"]) == ("error", code)
    assert "secret" not in (event.data or "")


async def test_the_openapi_document_describes_the_streams(sqlite_node: Node) -> None:
    paths = (await sqlite_node.client.get("/openapi.json")).json()["paths"]

    for path in ("/v1/topics/{topic}/records", "/v1/topics/{topic}/partitions/{partition}/records"):
        operation = paths[path]["get"]
        assert "text/event-stream" in operation["responses"]["200"]["content"]
        parameters = {parameter["name"]: parameter for parameter in operation["parameters"]}
        assert parameters["max_wait_ms"]["example"] == 1000
        assert {"follow", "max_events", "Last-Event-ID"} <= parameters.keys()

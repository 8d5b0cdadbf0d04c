"""A hot operation gives the same answers through the gateway and through FastAPI."""

from __future__ import annotations

import gzip
import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from app.api.documents.openapi import operations
from tests.serving import client_of

if TYPE_CHECKING:
    from pathlib import Path

    import httpx2

    from tests.serving import Serve

pytestmark = pytest.mark.anyio

ORDERS = "/v1/topics/orders"
URL = f"{ORDERS}/partitions/0/records"
TOPIC_URL = f"{ORDERS}/records"
JSON = "application/json"
STAMP = {"Producer_Id": "p", "Producer_Epoch": "0"}


class Request(NamedTuple):
    operation: str
    method: str
    path: str
    body: bytes = b""
    headers: dict[str, str] = {}  # noqa: RUF012 - never modified


def post(path: str, body: bytes | dict[str, Any], **headers: str) -> Request:
    content = json.dumps(body).encode() if isinstance(body, dict) else body
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Request("produce_to_partition" if "/partitions/" in path else "produce", "POST", path, content, named)


def queue(name: str, body: bytes | dict[str, Any], **headers: str) -> Request:
    return post(f"/v1/queues/jobs/{name}", body, **({"Content_Type": JSON} | headers))._replace(
        operation=name.partition("?")[0]
    )


def acknowledgement(outcome: str, number: int = 0) -> dict[str, Any]:
    return {"acknowledgements": [{"delivery_id": f"1.0.{number}.1", "outcome": outcome}]}


def get(path: str, **headers: str) -> Request:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Request("fetch_partition" if "/partitions/" in path else "fetch_topic", "GET", path, b"", named)


def member(action: str, body: bytes | dict[str, Any], group: str = "billing", name: str = "alice") -> Request:
    content = json.dumps(body).encode() if isinstance(body, dict) else body
    return Request(action, "POST", f"/v1/groups/{group}/members/{name}/{action}", content, {"Content-Type": JSON})


def at(value: Any, **fields: Any) -> dict[str, Any]:
    return {"value": value, "timestamp_ms": 1} | fields


SCRIPT = [
    request
    for url in (URL, TOPIC_URL)
    for request in (
        get(url.replace("orders", "nothing")),
        post(url, at(1), Content_Type=JSON),
        post(url, {"records": [at("x" * 100, key="k")] * 10}, Content_Type=JSON, Prefer="return=minimal"),
        post(url, at(1, partition=99), Content_Type=JSON),
        post(url, at(1, headers={"n": "v"}), Content_Type=JSON, Idempotency_Key=url),
        post(url, at(1, headers={"n": "v"}), Content_Type=JSON, Idempotency_Key=url),
        post(url, at(2), Content_Type=JSON, Idempotency_Key=url),
        post(url, at(1), Content_Type=JSON, **STAMP, Producer_Sequence="5"),
        post(url, at(1), Content_Type=JSON, Producer_Id="p"),
        post(f"{url}?timestamp_ms=1&key=k", b"raw"),
        post(f"{url}?timestamp_ms=1", b"text", Content_Type="text/plain"),
        post(f"{url}?lines=values&timestamp_from=/at", b'{"at":1}\n{"at":2}\n', Content_Type=JSON),
        post(f"{url}?lines=values&timestamp_from=/at", b'{"at":1}\n{"no":2}\n', Content_Type=JSON),
        post(url, gzip.compress(b'{"value":1,"timestamp_ms":1}', mtime=0), Content_Type=JSON, Content_Encoding="gzip"),
        post(url, b"x", Content_Type=JSON, Content_Encoding="gzip"),
        post(url, b"x", Content_Type=JSON, Content_Encoding="br"),
        post(url, b'{"value":', Content_Type=JSON),
        post(url, b'{"valeu":1}', Content_Type=JSON),
        post(url, b"a=1", Content_Type="application/x-www-form-urlencoded"),
        post(f"{url}?nothing=1", at(1), Content_Type=JSON),
        post(f"{url}?key=%FF", at(1), Content_Type=JSON),
        post(f"{url}?expected_offset=3", at(1), Content_Type=JSON),
        post(url.replace("orders", "a%20b"), at(1), Content_Type=JSON),
        post(url.replace("partitions/0", "partitions/x"), at(1), Content_Type=JSON),
        post(url.replace("partitions/0", "partitions/9"), at(1), Content_Type=JSON),
        get(url),
        get(f"{url}?max_records=2&offset=-3"),
        get(f"{url}?offset=@0&max_bytes=1", Accept="application/x-ndjson"),
        get(url, Accept_Encoding="gzip"),
        get(url, Accept_Encoding="zstd"),
        get(f"{url}?offset=latest&max_wait_ms=5"),
        get(f"{url}?offset=99999"),
        get(f"{url}?offset=99999&offset_reset=latest"),
        get(f"{url}?offset=x"),
        get(f"{url}?max_records=0"),
        get(f"{url}?offset=1&offset=2"),
        get(url.replace("partitions/0", "partitions/9")),
        get(url.replace("partitions/0", "partitions/x")),
        get(f"{url}?cursor=x"),
        get(f"{url}?offset=-3&max_events=2", Accept="text/event-stream"),
        get(f"{url}?offset=earliest&max_wait_ms=0&follow=true"),
        get(f"{url}?offset=99999", Accept="text/event-stream"),
        get(f"{url}?max_wait_ms=5", Accept="text/event-stream", Last_Event_ID="x"),
        get(f"{url}?max_events=2"),
    )
]

OWNED = [{"topic": "orders", "partitions": [0, 1, 2, 3]}]
AT_EPOCH = {"member_epoch": 1, "max_wait_ms": 0}
SCRIPT += [
    member("heartbeat", {"member_epoch": 1}),
    member("poll", {"member_epoch": 1}),
    member("poll", {"topics": ["orders"], "max_records": 2}),
    member("poll", {"topics": ["orders"], "max_records": 3, "auto_commit": True}),
    member("poll", {"topics": ["orders"], "auto_commit": True, "max_bytes": 1}),
    member("poll", AT_EPOCH | {"owned": OWNED}),
    member("poll", AT_EPOCH | {"commit": [{"topic": "orders", "partition": 0, "offset": 0}], "max_records": 1}),
    member("poll", AT_EPOCH | {"commit": [{"topic": "orders", "partition": 9, "offset": 0}]}),
    member("poll", AT_EPOCH | {"commit": [{"topic": "orders", "partition": 0, "offset": 9999}]}),
    member("poll", {"topics": ["orders"], "commit": [{"topic": "orders", "partition": 0, "offset": 0}]}),
    member("poll", {"topics": ["orders"], "member_epoch": 1}),
    member("poll", {"topics": ["orders"], "auto_offset_reset": "never"}),
    member("poll", {"topics": ["a b"]}),
    member("poll", {"member_epoch": 2}),
    member("poll", {"member_epoch": 1, "wait_ms": 5}),
    member("poll", {"member_epoch": 1, "max_records": 0}),
    member("poll", b""),
    member("poll", b'{"member_epoch":'),
    member("poll", {"member_epoch": 1}, group="a%20b"),
    member("poll", {"member_epoch": 1}, name="a%00b"),
    member("heartbeat", {"member_epoch": 1}),
    member("heartbeat", {"member_epoch": 1, "owned": OWNED}),
    member("heartbeat", {"member_epoch": 1, "owned": []}),
    member("heartbeat", {"member_epoch": 0}),
    member("heartbeat", {"member_epoch": 1}, name="bob"),
    member("heartbeat", {"member_epoch": 1}, group="nothing"),
    member("heartbeat", {"member_epoch": 1}, group="billing%00x"),
    member("heartbeat", {"member_epoch": 1}, name="a%20b"),
    member("heartbeat", {"member_epoch": -1}),
    member("heartbeat", {"epoch": 1}),
    member("heartbeat", b""),
    member("heartbeat", b"member_epoch=1")._replace(headers={"Content-Type": "application/x-www-form-urlencoded"}),
    member("heartbeat", b'{"member_epoch":1'),
]


QUEUES = [
    queue("acquire", {}),
    queue("acknowledge", acknowledgement("accept")),
    queue("acquire", {"topic": "orders", "max_records": 2, "lock_duration_ms": 3_600_000}),
    queue("acquire", {"max_records": 2}, Idempotency_Key="a"),
    queue("acquire", {"max_records": 3}, Idempotency_Key="a"),
    queue("acquire", {"topic": "others"}),
    queue("acquire", b""),
    queue("acquire", {"max_records": 0}),
    queue("acquire", {"lock_duration_ms": 1}),
    queue("acquire", {"max_wait_ms": 60_001}),
    queue("acquire", b'{"max_record":1}'),
    queue("acquire", b"{"),
    queue("acquire", b"a=1", Content_Type="application/x-www-form-urlencoded"),
    queue("acquire?a=1", {}),
    queue("acknowledge", acknowledgement("accept")),
    queue("acknowledge", acknowledgement("accept")),
    queue("acknowledge", acknowledgement("accept", 1), Idempotency_Key="b"),
    queue("acknowledge", acknowledgement("accept", 1), Idempotency_Key="b"),
    queue("acknowledge", acknowledgement("reject", 1), Idempotency_Key="b"),
    queue("acknowledge", acknowledgement("renew", 2)),
    queue("acknowledge", acknowledgement("lose", 2)),
    queue("acknowledge", {}),
    queue("acknowledge", {"acknowledgements": []}),
    queue("acknowledge", {"acknowledgements": [{"delivery_id": "1.0.2.1", "outcome": "accept", "delay_ms": 5}]}),
]
"""Requests after those of `SCRIPT`, for the records that it has produced."""

SIGNATURE = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
SECRET = "It's a Secret to Everybody"
DELIVERIES = [
    Request("deliver_to_source", "POST", f"/v1/sources/{source}/events{query}", body, headers)
    for source, query, body, headers in (
        ("hub", "", b"Hello, World!", {"X-Hub-Signature-256": SIGNATURE}),
        ("hub", "?any=query", b"Hello, World!", {"X-Hub-Signature-256": SIGNATURE, "X-GitHub-Delivery": "1"}),
        ("hub", "", b"Hello, World!", {"X-Hub-Signature-256": SIGNATURE, "X-GitHub-Delivery": "1"}),
        ("hub", "", b"Hello", {"X-Hub-Signature-256": SIGNATURE}),
        ("hub", "", bytes(200), {}),
        ("hub:token", "", b"", {}),
        ("a%20b", "", b"", {}),
        ("missing", "", b"", {}),
    )
]

LOCKED_UNTIL = re.compile(rb'"locked_until_ms":\d+')


async def answer(client: httpx2.AsyncClient, request: Request) -> tuple[int, list[tuple[str, str]], bytes]:
    headers = {"Accept-Encoding": "identity", "X-Request-ID": "same"} | request.headers
    async with client.stream(request.method, request.path, content=request.body, headers=headers) as response:
        body = b"".join([part async for part in response.aiter_raw()])
    return response.status_code, sorted(response.headers.multi_items()), LOCKED_UNTIL.sub(b"", body)


async def test_a_hot_operation_answers_the_same_through_the_gateway_and_through_fastapi(
    serve: Serve, tmp_path: Path
) -> None:
    application, gateway_client = await serve(database_url=f"sqlite:///{tmp_path}/gateway.db")
    other, _ = await serve(database_url=f"sqlite:///{tmp_path}/fastapi.db")
    statuses: dict[str, set[int]] = {}

    async with client_of(other.api) as fastapi_client:
        for client in (gateway_client, fastapi_client):
            verify = {"scheme": "github", "secret": SECRET}
            await client.put("/v1/sources/hub", json={"topic": "events", "verify": verify, "max_body_bytes": 100})
        for number, request in enumerate(SCRIPT + QUEUES + DELIVERIES):
            by_gateway = await answer(gateway_client, request)
            by_fastapi = await answer(fastapi_client, request)
            assert by_gateway == by_fastapi, (number, request)
            statuses.setdefault(request.operation, set()).add(by_gateway[0])

    hot = {route.operation.name for route in operations(application.api) if route.operation.description.hot}
    assert set(statuses) == hot, "a hot operation is missing in the script"
    assert statuses["produce"] >= {200, 201, 400, 409, 415, 422}
    assert statuses["produce_to_partition"] >= {200, 201, 400, 404, 409, 412, 415, 422}
    assert statuses["deliver_to_source"] == {200, 401, 404, 413, 422}
    assert statuses["fetch_partition"] >= {200, 404, 416, 422}
    assert statuses["acquire"] >= {200, 400, 404, 409, 415, 422}
    assert statuses["acknowledge"] >= {200, 404, 422}
    assert statuses["fetch_topic"] >= {200, 400, 404, 422}
    assert statuses["heartbeat"] >= {200, 400, 409, 415, 422}
    assert statuses["poll"] >= {200, 400, 409, 422}

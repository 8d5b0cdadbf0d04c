"""The log of `millrace serve`: levels, formats, the access log, and refusals by their request id."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.support.raw_http import connect
from tests.e2e.support.server_process import PROGRAM, ServerProcess, StartFailed
from tests.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    import httpx2

pytestmark = pytest.mark.anyio

LOGGING = {"access_log": "true", "log_format": "json", "log_level": "DEBUG"}
RECORD = {"records": [{"value": 1}]}


def objects(node: ServerProcess) -> list[dict[str, Any]]:
    whole, _, _ = node.log.rpartition("\n")
    return [json.loads(line) for line in whole.splitlines()]


def requests(node: ServerProcess) -> list[dict[str, Any]]:
    return [line for line in objects(node) if line["logger"] == "app.server.access_log"]


class JsonServer(ServerProcess):
    """A server that logs JSON: the line that it is ready is in its log."""

    def wait_until_ready(self) -> None:
        assert self.process is not None
        while self.process.poll() is None:
            os.sched_yield()
            if found := [line["url"] for line in objects(self) if "url" in line]:
                (self.url,) = found
                return
        raise StartFailed(self.log)


@pytest.fixture
def node(sqlite_url: str, tmp_path: Path) -> JsonServer:
    return JsonServer(sqlite_url, tmp_path, settings=LOGGING)


async def send(node: ServerProcess, data: bytes) -> bytes:
    reader, writer = await connect(node.url)
    writer.write(data)
    answer = await reader.read()
    writer.close()
    return answer


async def logged(node: ServerProcess, **facts: object) -> dict[str, Any]:
    """Wait for the line of one request."""

    async def read() -> list[dict[str, Any]]:
        return [line for line in requests(node) if facts.items() <= line.items()]

    (line,) = await until(read, bool)
    return line


async def test_each_request_is_one_object_in_the_access_log(node: JsonServer) -> None:
    with node:
        async with node.client() as client:
            answer = await client.post(
                "/v1/topics/orders/records?lines=records", json={"value": 1}, headers={"X-Request-ID": "abc"}
            )
            head = await client.head("/healthz")
            page = await client.get("/docs")
            async with client.stream("GET", "/v1/topics/orders/records?follow=true&max_wait_ms=100") as stream:
                streamed = b"".join([part async for part in stream.aiter_raw()])
        malformed = await send(node, b"nonsense\r\n\r\n")
        broken = await send(
            node,
            b"POST /v1/topics/x/records HTTP/1.1\r\nHost: a\r\nX-Request-ID: cut\r\n"
            b"Transfer-Encoding: chunked\r\n\r\nzz",
        )
        produce = await logged(node, request_id="abc")
        lines = [await logged(node, request_id=each.headers["x-request-id"]) for each in (head, page, stream)]
        rejected = await logged(node, status=400, path="-")
        cut = await logged(node, request_id="cut")
        node.terminate()
        code = await asyncio.to_thread(node.exit_code)

    duration_ms = produce.pop("duration_ms")
    assert 0 < duration_ms < 60_000
    assert {name: produce[name] for name in ("client", "method", "path", "status", "bytes", "complete", "level")} == {
        "client": "127.0.0.1", "method": "POST", "path": "/v1/topics/orders/records", "status": 201,
        "bytes": len(answer.content), "complete": True, "level": "info",
    }  # fmt: skip
    assert [(line["method"], line["path"], line["status"], line["bytes"]) for line in lines] == [
        ("HEAD", "/healthz", 200, 0),
        ("GET", "/docs", 200, len(page.content)),
        ("GET", "/v1/topics/orders/records", 200, len(streamed)),
    ]
    assert rejected["request_id"] in malformed.decode()
    assert (cut["method"], cut["path"], cut["status"], b'"request_id":"cut"' in broken) == (
        "POST", "/v1/topics/x/records", 400, True,
    )  # fmt: skip
    assert len(requests(node)) == 6
    assert code == 0


async def test_a_stream_is_logged_at_its_end_as_cut_off_when_the_client_leaves(node: JsonServer) -> None:
    with node:
        async with node.client() as client:
            await client.post("/v1/topics/orders/records", json=RECORD)
            async with client.stream("GET", "/v1/topics/orders/records?follow=true") as stream:
                first = await anext(stream.aiter_raw())
                assert [line["method"] for line in requests(node)] == ["POST"]
            line = await logged(node, method="GET")

    assert (line["status"], line["bytes"], line["complete"]) == (200, len(first), False)


async def test_every_refusal_is_in_the_log_under_its_request_id(node: JsonServer) -> None:
    with node:
        async with node.client() as client:
            refusals: list[httpx2.Response] = [
                await client.get("/v1/topics/nothing"),
                await client.get("/nothing"),
                await client.get("/healthz", headers={"Host": "evil.example", "X-Request-ID": "probe"}),
                await client.get("/v1/topics", headers={"Host": "evil.example"}),
                await client.post(
                    "/v1/topics/orders/records", content=b"{", headers={"Content-Type": "application/json"}
                ),
                await client.delete("/v1/topics"),
                await client.get("/problems/nothing"),
            ]
        malformed = json.loads((await send(node, b"nonsense\r\n\r\n")).partition(b"\r\n\r\n")[2])
        found = {line["request_id"]: (line["status"], line["code"]) for line in objects(node) if "code" in line}

    problems = [each.json() for each in refusals if each.status_code >= 400] + [malformed]
    assert {each["request_id"]: (each["status"], each["code"]) for each in problems} == found
    assert len(problems) == 7


async def test_the_text_log_has_no_refusals_by_default_and_no_line_that_a_client_has_written(
    sqlite_url: str, tmp_path: Path
) -> None:
    quiet = ServerProcess(sqlite_url, tmp_path)
    with quiet:
        async with quiet.client() as client:
            assert (await client.get("/nothing")).status_code == 404
    loud = ServerProcess(
        sqlite_url, tmp_path, settings={"access_log": 1, "trusted_proxies": "127.0.0.1", "log_level": "error"}
    )
    with loud:
        async with loud.client() as client:
            await client.get("/healthz?key=secret", headers={"X-Forwarded-For": "10.0.0.9", "X-Request-ID": "mine"})
        await send(loud, b"GET /a\x85b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")

        async def lines() -> list[str]:
            return loud.log.splitlines()

        first, *_ = await until(lines, bool)

    assert quiet.log == ""
    assert " INFO app.server.access_log: 10.0.0.9 GET /healthz 200, " in first
    assert first.endswith(", request mine")
    assert "secret" not in loud.log
    assert "\x85" not in loud.log


def test_wrong_settings_and_a_port_in_use_are_objects_too(sqlite_url: str, tmp_path: Path) -> None:
    wrong = ServerProcess(sqlite_url, tmp_path, settings=LOGGING | {"max_records": 0, "max_wait_ms": -1})
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        second = ServerProcess(sqlite_url, tmp_path, settings=LOGGING, port=port)
        for node in (wrong, second):
            with pytest.raises(StartFailed, match="exit code 1"):
                node.start()

    (failure,) = objects(wrong)
    assert failure["message"].startswith("2 settings are wrong:")
    (failure,) = objects(second)
    assert failure["message"].startswith(f"port {port} on 127.0.0.1 is in use: ")


def test_a_start_that_fails_is_one_object_too(tmp_path: Path) -> None:
    (tmp_path / "garbage.db").write_bytes(b"not a database" * 100)
    node = ServerProcess(f"sqlite:///{tmp_path}/garbage.db", tmp_path, program=PROGRAM, settings=LOGGING | {"prot": 1})
    with pytest.raises(StartFailed, match="exit code 1"):
        node.start()

    warning, failure = objects(node)
    assert warning["message"].endswith("did you mean MILLRACE_PORT?")
    assert (warning["level"], failure["level"]) == ("warning", "critical")
    assert failure["message"].startswith(f"{tmp_path}/garbage.db is not an SQLite database")

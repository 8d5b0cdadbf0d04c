"""The blocks for nginx in `docs/operations.md` work as written."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
from typing import TYPE_CHECKING

import httpx2
import pytest

from tests.checkout import ROOT
from tests.e2e.support.server_process import ServerProcess
from tests.waiting import DEADLINE_S

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BLOCK = re.compile(r"^```nginx\n(.*?)^```", re.DOTALL | re.MULTILINE)
NAME = "log.example.com"
RECORDS = "/v1/topics/orders/records"

pytestmark = pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")


def blocks() -> tuple[str, str]:
    """Return the server of the document, without and with a prefix."""
    text = (ROOT / "docs" / "operations.md").read_text()
    server, prefix = BLOCK.findall(text)
    assert "    location / {\n        proxy_pass http://127.0.0.1:8400;\n" in server
    return server, server.replace("    location / {\n        proxy_pass http://127.0.0.1:8400;\n", prefix)


@contextlib.contextmanager
def nginx(directory: Path, server: str, upstream: str) -> Iterator[httpx2.Client]:
    """Run nginx with a server block, and give a client of it that sends the name of the document."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert "listen 80;" in server
    block = server.replace("listen 80;", f"listen 127.0.0.1:{port};").replace("http://127.0.0.1:8400", upstream)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"{kind}_temp_path {directory}/{kind};\n" for kind in kinds)
    user = "user root;\n" if os.geteuid() == 0 else ""
    configuration = directory / "nginx.conf"
    configuration.write_text(
        f"{user}daemon off;\nmaster_process off;\npid {directory}/nginx.pid;\nerror_log {directory}/error.log;\n"
        f"events {{}}\nhttp {{\naccess_log off;\n{paths}{block}}}\n"
    )
    process = subprocess.Popen(["nginx", "-p", str(directory), "-c", str(configuration)], stderr=subprocess.DEVNULL)
    try:
        transport = httpx2.HTTPTransport(retries=8)
        with httpx2.Client(
            base_url=f"http://127.0.0.1:{port}", headers={"Host": NAME}, transport=transport, timeout=DEADLINE_S
        ) as client:
            yield client
    finally:
        process.terminate()
        process.wait()


@pytest.mark.parametrize("prefix", ["", "/millrace"])
def test_nginx_forwards_reads_writes_pages_and_streams(tmp_path: Path, prefix: str) -> None:
    settings = {"allowed_hosts": NAME, "root_path": prefix, "stream_comment_interval_ms": 20}
    with (
        ServerProcess(f"sqlite:///{tmp_path / 'millrace.db'}", tmp_path, settings=settings) as node,
        nginx(tmp_path, blocks()[bool(prefix)], node.url) as client,
    ):
        page = {"Origin": f"http://{NAME}"}
        produced = client.post(f"{prefix}{RECORDS}", json={"value": 1}, headers=page)
        refused = client.post(f"{prefix}{RECORDS}", json={"value": 1}, headers={"Origin": "http://evil.example"})
        fetched = client.get(f"{prefix}{RECORDS}")
        docs = client.get(f"{prefix}/docs")
        script = client.get(f"{prefix}/docs/init.js")
        with client.stream("GET", f"{prefix}{RECORDS}?follow=true") as stream:
            lines = stream.iter_lines()
            silence = [next(lines) for _ in range(2)]

    assert (produced.status_code, refused.status_code, docs.status_code, script.status_code) == (201, 403, 200, 200)
    assert [record["value"] for record in fetched.json()["records"]] == [1]
    assert fetched.headers["link"].startswith(f"<{prefix}{RECORDS}?")
    assert silence == ["", ""]


def test_nginx_without_configuration_reads_and_streams_over_http_1_0(tmp_path: Path) -> None:
    server = "server {\nlisten 80;\nlocation / {\nproxy_pass http://127.0.0.1:8400;\n}\n}\n"
    with (
        ServerProcess(f"sqlite:///{tmp_path / 'millrace.db'}", tmp_path) as node,
        nginx(tmp_path, server, node.url) as client,
    ):
        produced = client.post(RECORDS, json={"value": 1})
        stream = client.get(f"{RECORDS}?follow=true&offset=earliest&max_wait_ms=0")
        refused = client.post(RECORDS, json={"value": 1}, headers={"Origin": f"http://{NAME}"})

    assert produced.status_code == 201
    assert stream.json()["value"] == 1
    assert refused.status_code == 403
    assert f"http://{NAME}" in refused.json()["detail"]
    assert node.url.removeprefix("http://") in refused.json()["detail"]

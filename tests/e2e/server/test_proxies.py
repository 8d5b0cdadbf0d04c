"""The blocks for nginx and Caddy in `docs/operations.md` work as written."""

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

BLOCK = re.compile(r"^```(?:nginx|caddyfile)\n(.*?)^```", re.DOTALL | re.MULTILINE)
NAME = "log.example.com"
KEY = "key-of-an-admin-behind-a-proxy-0123456789"
RECORDS = "/v1/topics/orders/records"

needs_nginx = pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
needs_caddy = pytest.mark.skipif(shutil.which("caddy") is None, reason="Caddy is not installed")


def blocks() -> tuple[str, str, str]:
    """Return nginx's server of the document, without and with a prefix, and Caddy's."""
    text = (ROOT / "docs" / "operations.md").read_text()
    server, prefix, caddyfile = BLOCK.findall(text)
    assert "    location / {\n        proxy_pass http://127.0.0.1:8400;\n" in server
    return server, server.replace("    location / {\n        proxy_pass http://127.0.0.1:8400;\n", prefix), caddyfile


def free_port() -> int:
    """Return a port on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


@contextlib.contextmanager
def nginx(directory: Path, server: str, upstream: str) -> Iterator[httpx2.Client]:
    """Run nginx with a server block, and give a client of it that sends the name of the document."""
    port = free_port()
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
    with client_of(["nginx", "-p", str(directory), "-c", str(configuration)], port) as client:
        yield client


@contextlib.contextmanager
def caddy(directory: Path, block: str, upstream: str, prefix: str) -> Iterator[httpx2.Client]:
    """Run Caddy with the block of the document, over plain HTTP."""
    port = free_port()
    block = block.replace(f"{NAME} {{", f"http://{NAME}:{port} {{").replace("127.0.0.1:8400", upstream)
    if prefix:
        site, _, proxy = block.partition("\n")
        block = f"{site}\nhandle {prefix}/* {{\n{proxy}}}\n"
    configuration = directory / "Caddyfile"
    configuration.write_text(f"{{\nadmin off\nauto_https off\nstorage file_system {directory}\n}}\n{block}")
    command = ["caddy", "run", "--adapter", "caddyfile", "--config", str(configuration)]
    with client_of(command, port) as client:
        yield client


@contextlib.contextmanager
def client_of(command: list[str], port: int) -> Iterator[httpx2.Client]:
    """Run a proxy, and give a client of it that sends the name of the document."""
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
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
@pytest.mark.parametrize("proxy", [pytest.param("nginx", marks=needs_nginx), pytest.param("caddy", marks=needs_caddy)])
def test_a_proxy_forwards_reads_writes_pages_and_streams(tmp_path: Path, proxy: str, prefix: str) -> None:
    settings = {"allowed_hosts": NAME, "root_path": prefix, "stream_comment_interval_ms": 20, "admin_key": KEY}
    with (
        ServerProcess(f"sqlite:///{tmp_path / 'millrace.db'}", tmp_path, settings=settings) as node,
        (
            nginx(tmp_path, blocks()[bool(prefix)], node.url)
            if proxy == "nginx"
            else caddy(tmp_path, blocks()[2], node.url.removeprefix("http://"), prefix)
        ) as client,
    ):
        client.headers["Authorization"] = f"Bearer {KEY}"
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


@needs_nginx
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

"""Host, Origin and Sec-Fetch-Site: no web page may read or write a log through a browser."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.serving import client_of

if TYPE_CHECKING:
    from pathlib import Path

    import httpx2

    from tests.serving import Serve

pytestmark = pytest.mark.anyio

ORDERS = "/v1/topics/orders"
URL = f"{ORDERS}/partitions/0/records"
CROSS_SITE = {"Sec-Fetch-Site": "cross-site"}
OWN_HOSTS = [
    "localhost", "LOCALHOST:1", "localhost.", "127.0.0.1:8400", "[::1]", "[::1]:8400", "10.0.0.1", "192.168.1.2:80",
    "[2001:db8::1]:8400", "millrace", "millrace:8400", "log_1", "app.localhost", "host.docker.internal:8400",
    "printer.local", "millrace.default.svc", "MILLRACE.Default.SVC:80",
]  # fmt: skip
OTHER_HOSTS = [
    "example.com", "rebind.attacker.example:8400", "localhost.example.com", "127.0.0.1.example.com", "", "example.com.",
    "localhost@example.com", "[::1].example.com", "[::x]", "localhost:80:80", "local host", "a..b", ".local", "é.local",
    "millrace.svc.cluster.example", "notlocal.xlocal", "256.0.0.1", "127.1", "*", "[127.0.0.1]", "localhost/x",
]  # fmt: skip


@pytest.mark.parametrize("bind", ["127.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize("host", OWN_HOSTS)
async def test_addresses_and_names_that_only_a_local_resolver_knows_are_accepted(
    serve: Serve, host: str, bind: str
) -> None:
    application, _ = await serve(host=bind, auth="none")
    async with client_of(application.asgi) as client:
        for path in ("/healthz", "/v1/topics", "/nothing"):
            assert (await client.get(path, headers={"Host": host})).status_code != 421


@pytest.mark.parametrize("bind", ["127.0.0.1", "0.0.0.0", "::", "10.0.0.1"])
async def test_other_hosts_are_refused_whatever_the_server_listens_on(serve: Serve, bind: str) -> None:
    _, client = await serve(host=bind, auth="none")
    for host in OTHER_HOSTS:
        for method, path in (("GET", ORDERS), ("POST", URL), ("GET", "/docs"), ("OPTIONS", URL), ("GET", "/metrics")):
            response = await client.request(method, path, headers=[(b"Host", host.encode())])

            assert (response.status_code, response.json()["code"]) == (421, "MISDIRECTED_REQUEST"), (host, path)


async def test_a_page_that_rebinds_its_name_to_this_server_writes_nothing(serve: Serve) -> None:
    _, client = await serve(host="0.0.0.0", auth="none")
    page = {"Host": "attacker.example:8400", "Origin": "http://attacker.example:8400", "Sec-Fetch-Site": "same-origin"}

    refused = await client.post(f"{ORDERS}/records", json={"value": 1}, headers=page)

    assert refused.status_code == 421
    assert (await client.get("/v1/topics")).json()["items"] == []


async def test_a_refusal_names_the_received_host_and_both_settings(sqlite_client: httpx2.AsyncClient) -> None:
    wrong_host = await sqlite_client.get(ORDERS, headers={"Host": "log.example.com:8443"})
    page = {"Origin": "https://log.example.com"}
    cross_origin = await sqlite_client.post(URL, json={"value": 1}, headers=page)
    unprintable = await sqlite_client.get(ORDERS, headers=[(b"Host", b"a\tb" + b"c" * 1_000)])

    for refused, names in (
        (wrong_host, ["log.example.com:8443"]),
        (cross_origin, ["localhost:8400", "https://log.example.com"]),
    ):
        for name in (*names, "MILLRACE_ALLOWED_HOSTS", "MILLRACE_CORS_ORIGINS"):
            assert name in refused.json()["detail"]
    assert "a?b" in unprintable.json()["detail"]
    assert len(unprintable.json()["detail"]) < 400


async def test_the_hosts_of_the_settings_are_accepted(serve: Serve, tmp_path: Path) -> None:
    _, listed = await serve(auth="none", allowed_hosts=("Log.example.com", "*.example.org"))
    _, everything = await serve(auth="none", allowed_hosts=("*",), database_url=f"sqlite:///{tmp_path}/two.db")

    async def statuses(client: httpx2.AsyncClient, *hosts: str) -> list[int]:
        return [(await client.get("/v1/topics", headers={"Host": host})).status_code for host in hosts]

    accepted = "log.example.com:8400", "LOG.example.com.", "a.example.org", "a.b.example.org", "localhost"
    assert await statuses(listed, *accepted) == [200] * 5
    assert await statuses(listed, "other.example.com", "example.org", "xexample.org", "a.log.example.com") == [421] * 4
    assert await statuses(everything, "other.example.com", "localhost") == [200, 200]


@pytest.mark.parametrize("name", ["https://log.example.com", "log.example.com:8443", "*log.example.com", "a b", "*.*"])
async def test_a_setting_that_is_no_host_name_is_refused_at_the_start(serve: Serve, name: str) -> None:
    with pytest.raises(ValueError, match="must be names such as"):
        await serve(allowed_hosts=(name,))


async def test_probes_may_send_any_host(sqlite_client: httpx2.AsyncClient) -> None:
    for path in ("/healthz", "/readyz"):
        assert (await sqlite_client.get(path, headers={"Host": "probe.example.com"})).status_code == 200
        assert (await sqlite_client.head(path, headers={"Host": "probe.example.com"})).status_code == 200
        assert (await sqlite_client.post(path, headers={"Host": "probe.example.com"})).status_code == 421


async def test_a_page_of_another_site_must_not_call_a_server_on_loopback(sqlite_client: httpx2.AsyncClient) -> None:
    await sqlite_client.put(ORDERS)
    for host in ("localhost:8400", "127.0.0.1:8400", "[::1]:8400", "app.localhost"):
        for method, path in (("GET", URL), ("GET", "/v1/topics"), ("HEAD", URL), ("GET", "/docs"), ("POST", URL)):
            refused = await sqlite_client.request(method, path, headers={**CROSS_SITE, "Host": host})

            assert refused.status_code == 403
    assert (await sqlite_client.get(URL, headers=CROSS_SITE)).json()["code"] == "CROSS_ORIGIN_REFUSED"


async def test_visits_and_own_pages_and_other_programs_are_not_cross_site(sqlite_client: httpx2.AsyncClient) -> None:
    await sqlite_client.put(ORDERS)
    visit = {**CROSS_SITE, "Sec-Fetch-Mode": "navigate"}

    for headers in (visit, {"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}, {"Sec-Fetch-Mode": "cors"}):
        assert (await sqlite_client.get(URL, headers=headers)).status_code == 200
    assert (await sqlite_client.post(URL, json={"value": 1}, headers=visit)).status_code == 403


async def test_a_page_of_an_allowed_origin_may_call_from_another_site(serve: Serve, tmp_path: Path) -> None:
    _, listed = await serve(cors_origins=("https://app.example",))
    _, everything = await serve(cors_origins=("*",), database_url=f"sqlite:///{tmp_path}/two.db")
    page = {**CROSS_SITE, "Origin": "https://app.example", "Sec-Fetch-Mode": "cors"}
    preflight = {**page, "Access-Control-Request-Method": "POST"}

    for client in (listed, everything):
        assert (await client.post(f"{ORDERS}/records", json={"value": 1}, headers=page)).status_code == 201
        assert (await client.get(f"{ORDERS}/records", headers=page)).status_code == 200
        assert (await client.options(f"{ORDERS}/records", headers=preflight)).status_code == 200
    other = {**page, "Origin": "https://other.example"}
    assert (await listed.get(f"{ORDERS}/records", headers=other)).status_code == 403


async def test_every_answer_forbids_sniffing_and_use_by_other_origins(serve: Serve) -> None:
    _, client = await serve(cors_origins=("https://app.example",))
    for method, path, headers in (
        ("GET", "/", {}), ("GET", "/healthz", {}), ("GET", "/metrics", {}), ("GET", "/openapi.json", {}),
        ("GET", "/docs", {}), ("GET", "/docs/init.js", {}), ("GET", "/problems", {}), ("GET", "/problems/none", {}),
        ("PUT", ORDERS, {}), ("POST", URL, {}), ("GET", URL, {}), ("HEAD", URL, {}), ("GET", "/nothing", {}),
        ("POST", "/healthz", {}), ("GET", ORDERS, {"Host": "evil.example"}), ("POST", URL, {"Origin": "null"}),
        ("GET", "/v1/topics/a%2Fb", {}), ("GET", f"{URL}?follow=true&max_wait_ms=0", {}), ("DELETE", ORDERS, {}),
        ("OPTIONS", URL, {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}),
    ):  # fmt: skip
        answer = await client.request(method, path, headers=headers)

        assert answer.headers.get_list("x-content-type-options") == ["nosniff"], path
        assert answer.headers.get_list("cross-origin-resource-policy") == ["same-origin"], path

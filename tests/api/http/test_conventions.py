"""Rules of all requests: writes of other origins, headers of every answer, unknown paths and methods, problems."""

from __future__ import annotations

import importlib
import inspect
import logging
import pkgutil
from typing import TYPE_CHECKING

import pytest

from app import errors
from app.api.documents.problem_pages import problem_pages
from app.api.http import problems
from app.errors.broker_error import BrokerError
from app.errors.database import ServiceUnavailable

if TYPE_CHECKING:
    import httpx2

    from tests.serving import Serve

pytestmark = pytest.mark.anyio

ORDERS = "/v1/topics/orders"
URL = f"{ORDERS}/partitions/0/records"
ERRORS = [
    kind
    for module in pkgutil.iter_modules(errors.__path__)
    for _, kind in inspect.getmembers(importlib.import_module(f"app.errors.{module.name}"), inspect.isclass)
    if issubclass(kind, BrokerError) and kind.__module__.endswith(module.name) and kind is not BrokerError
]


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://localhost:9999", "http://[", "localhost:8400"]
)
async def test_a_page_of_another_origin_must_not_write(sqlite_client: httpx2.AsyncClient, origin: str) -> None:
    await sqlite_client.put(ORDERS)
    for method, path in (
        ("POST", URL), ("POST", f"{ORDERS}/records"), ("PUT", ORDERS), ("PATCH", ORDERS), ("DELETE", ORDERS),
        ("POST", "/v1/producers/p"), ("DELETE", f"{URL}?before_offset=0"),
    ):  # fmt: skip
        response = await sqlite_client.request(method, path, headers={"Origin": origin}, content=b"")

        assert (response.status_code, response.json()["code"]) == (403, "CROSS_ORIGIN_REFUSED")
    assert (await sqlite_client.get(URL, headers={"Origin": origin})).json()["records"] == []


async def test_a_page_of_this_host_or_of_an_allowed_origin_may_write(serve: Serve) -> None:
    _, client = await serve(cors_origins=("https://app.example",))

    own = await client.post(URL, json={"value": 1}, headers={"Origin": "http://localhost:8400"})
    allowed = await client.post(URL, json={"value": 1}, headers={"Origin": "https://app.example"})
    refused = await client.post(URL, json={"value": 1}, headers={"Origin": "https://evil.example"})
    preflight = await client.options(
        URL, headers={"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    )

    assert [response.status_code for response in (own, allowed, refused, preflight)] == [201, 201, 403, 200]
    assert allowed.headers["access-control-allow-origin"] == "https://app.example"
    assert "access-control-allow-origin" not in refused.headers
    assert "POST" in preflight.headers["access-control-allow-methods"]


async def test_every_answer_has_a_request_id_and_is_not_cached(sqlite_client: httpx2.AsyncClient) -> None:
    ids = set()
    for method, path in (
        ("GET", "/"), ("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/metrics"), ("GET", "/openapi.json"),
        ("GET", "/docs"), ("GET", "/problems"), ("PUT", ORDERS), ("POST", URL), ("GET", URL), ("GET", "/nothing"),
        ("POST", "/healthz"), ("GET", "/problems/none"), ("DELETE", ORDERS),
    ):  # fmt: skip
        response = await sqlite_client.request(method, path)
        assert response.headers["cache-control"] == "no-store", path
        ids.add(response.headers["x-request-id"])
        if response.headers.get("content-type") == "application/problem+json":
            assert response.json()["request_id"] == response.headers["x-request-id"]
        known = await sqlite_client.request(method, path, headers={"X-Request-ID": "trace-1"})
        assert known.headers["x-request-id"] == "trace-1", path

    assert len(ids) == 14
    assert (await sqlite_client.get("/", headers={"Host": "evil.example", "X-Request-ID": "t"})).headers[
        "x-request-id"
    ] == "t"


@pytest.mark.parametrize("given", ["", "a" * 129, "a b", "a\tb", "é"])
async def test_an_invalid_request_id_is_replaced(sqlite_client: httpx2.AsyncClient, given: str) -> None:
    for path in ("/healthz", URL):
        response = await sqlite_client.get(path, headers=[(b"X-Request-ID", given.encode())])

        assert response.headers["x-request-id"] not in {given, ""}


@pytest.mark.parametrize(
    "path", ["/nothing", "/v1", "/v1/", "/v1/topics/", f"{ORDERS}/records/", "//v1/topics", "/V1/topics"]
)
async def test_an_unknown_path_is_404(sqlite_client: httpx2.AsyncClient, path: str) -> None:
    for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS", "BREW"):
        response = await sqlite_client.request(method, f"http://localhost:8400{path}")

        assert (response.status_code, response.headers["content-type"]) == (404, "application/problem+json")
        assert response.json()["code"] == "NOT_FOUND"


@pytest.mark.parametrize(
    ("path", "allow"),
    [
        ("/v1/topics", "GET, HEAD"),
        (ORDERS, "DELETE, GET, HEAD, PATCH, PUT"),
        (f"{ORDERS}/records", "GET, HEAD, POST"),
        (URL, "DELETE, GET, HEAD, POST"),
        (f"{ORDERS}/partitions", "GET, HEAD"),
        ("/v1/producers/p", "GET, HEAD, POST"),
        ("/healthz", "GET, HEAD"),
        ("/", "GET, HEAD"),
    ],
)
async def test_an_unknown_method_is_405_with_the_allowed_methods_and_has_no_effect(
    sqlite_client: httpx2.AsyncClient, path: str, allow: str
) -> None:
    for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"} - set(allow.split(", ")):
        response = await sqlite_client.request(method, path, content=b'{"value":1}')

        assert (response.status_code, response.json()["code"]) == (405, "METHOD_NOT_ALLOWED"), method
        assert response.headers["allow"] == allow
    assert (await sqlite_client.get("/v1/topics")).json()["items"] == []
    assert (await sqlite_client.get("/v1/producers/p")).status_code == 404


async def test_an_unknown_accept_header_gets_json(sqlite_client: httpx2.AsyncClient) -> None:
    await sqlite_client.put(ORDERS)

    for path in ("/", ORDERS, URL):
        response = await sqlite_client.get(path, headers={"Accept": "text/turtle"})
        assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
        assert response.content.endswith(b"\n")


async def test_every_link_of_the_root_works(sqlite_client: httpx2.AsyncClient) -> None:
    root = (await sqlite_client.get("/")).json()

    for name in ("docs", "openapi", "health", "ready", "metrics", "topics"):
        assert (await sqlite_client.get(root[name])).status_code == 200


async def test_a_started_server_is_healthy_and_ready(client: httpx2.AsyncClient) -> None:
    health, ready = (await client.get("/healthz")).json(), (await client.get("/readyz")).json()

    assert health["status"] == ready["status"] == "ok"
    assert ready["database"] in {"sqlite", "postgresql"}


async def test_metrics_count_answers_and_records(sqlite_client: httpx2.AsyncClient) -> None:
    await sqlite_client.post(URL, json={"records": [{"value": 1}] * 3})
    await sqlite_client.get(f"{URL}?offset=x")

    text = (await sqlite_client.get("/metrics")).text

    assert "millrace_appended_records_total 3.0" in text
    assert 'millrace_http_answers_total{operation="produce_to_partition",status="201"} 1.0' in text
    assert 'millrace_http_answers_total{operation="fetch_partition",status="422"} 1.0' in text


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
async def test_every_error_has_a_status_a_text_and_a_page(
    sqlite_client: httpx2.AsyncClient, kind: type[BrokerError]
) -> None:
    document = problems.document(kind("detail"), "id")

    assert 400 <= problems.STATUS[kind] <= 507
    assert all((kind.code, kind.title, kind.cause, kind.cure))
    assert (document["code"], document["status"]) == (kind.code, problems.STATUS[kind])
    page = await sqlite_client.get(str(document["type"]))
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert kind.code in page.text
    assert str(problems.STATUS[kind]) in page.text
    assert f'href="{str(document["type"])[1:]}"' in (await sqlite_client.get("/problems")).text


async def test_the_table_of_statuses_has_every_error_and_nothing_else() -> None:
    assert set(problems.STATUS) == set(ERRORS)
    assert set(problem_pages()) == {problems.slug(kind) for kind in ERRORS}


@pytest.mark.parametrize("kind", [kind for kind in ERRORS if kind.retriable], ids=lambda kind: kind.__name__)
async def test_a_retriable_problem_has_a_retry_after_header_unless_it_is_409(kind: type[BrokerError]) -> None:
    assert problems.STATUS[kind] in {409, 429, 503, 507}
    assert problems.STATUS[kind] == 409 or (b"retry-after", b"1") in problems.headers(kind("detail"))


def test_a_refusal_is_logged_with_its_request_id_and_its_cause_at_the_level_debug(
    caplog: pytest.LogCaptureFixture,
) -> None:
    refusal = ServiceUnavailable("the database cannot be reached")
    refusal.__cause__ = OSError("connection refused\nIs the server running?")
    problems.document(refusal, "quiet")
    caplog.set_level(logging.DEBUG, logger="app.api.http.problems")
    problems.document(refusal, "abc")

    (message,) = caplog.messages
    assert message == (
        "request abc is refused with 503 SERVICE_UNAVAILABLE: the database cannot be reached "
        "(cause: OSError: connection refused)"
    )

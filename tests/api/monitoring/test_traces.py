"""Spans of requests, appends and deliveries, as OpenTelemetry's SDK exports them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from app.main import create_app, tracing
from app.settings import Settings
from tests.api.webhooks.calls import create, produce
from tests.api.webhooks.receiver import SETTINGS, Answer, receiving
from tests.waiting import until_true

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from tests.serving import Serve

pytestmark = pytest.mark.anyio

ORDERS = "/v1/topics/orders/records"
TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE_ID}-{SPAN_ID}-01"
CONTEXT = {"traceparent": PARENT, "tracestate": "congo=t61rcWkgMzE"}


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """What the servers of the test export."""
    exporter = InMemorySpanExporter()
    monkeypatch.setattr(tracing, "span_processor", lambda: SimpleSpanProcessor(exporter))
    return exporter


def named(exporter: InMemorySpanExporter, name: str) -> ReadableSpan:
    (span,) = [span for span in exporter.get_finished_spans() if span.name == name]
    return span


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


async def headers_of_records(client: Any) -> list[list[dict[str, str]]]:
    records = (await client.get(f"{ORDERS}?offset=earliest")).json()["records"]
    return [record.get("headers") or [] for record in records]


async def test_a_produce_has_a_server_span_within_the_trace_of_its_client_and_an_append_within_that(
    serve: Serve, spans: InMemorySpanExporter
) -> None:
    _, client = await serve(otel=True)

    await client.post(ORDERS, json={"records": [{"value": 1}, {"value": 2}]}, headers=CONTEXT)

    server, append = named(spans, "POST /v1/topics/{topic}/records"), named(spans, "send orders")
    assert server.kind is SpanKind.SERVER
    assert server.parent is not None
    assert (f"{server.context.trace_id:032x}", f"{server.parent.span_id:016x}") == (TRACE_ID, SPAN_ID)
    assert attributes(server) == {
        "http.request.method": "POST",
        "http.route": "/v1/topics/{topic}/records",
        "url.path": ORDERS,
        "http.response.status_code": 201,
    }
    assert append.parent is not None
    assert append.parent.span_id == server.context.span_id
    assert append.kind is SpanKind.PRODUCER
    assert attributes(append) == {
        "messaging.system": "millrace",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": "orders",
        "messaging.batch.message_count": 2,
    }
    assert server.resource.attributes["service.name"] == "millrace"


async def test_the_records_carry_the_context_of_the_request_unless_they_have_one(
    serve: Serve, spans: InMemorySpanExporter
) -> None:
    _, client = await serve(otel=True)
    own = {"name": "traceparent", "value": PARENT.replace("b7", "c7")}

    await client.post(ORDERS, json={"records": [{"value": 1}, {"value": 2, "headers": [own]}]}, headers=CONTEXT)
    await client.post(ORDERS, json={"value": 3}, headers={"traceparent": "nonsense"})
    part = {"topic": "orders", "records": [{"value": 4}]}
    await client.post("/v1/transactions", json={"produce": [part]}, headers=CONTEXT)

    carried = [{"name": name, "value": value} for name, value in CONTEXT.items()]
    found = await headers_of_records(client)
    assert sorted(found, key=str) == sorted([carried, [own], [], carried], key=str)


async def test_without_the_setting_records_are_stored_as_they_came(serve: Serve, spans: InMemorySpanExporter) -> None:
    _, client = await serve()

    await client.post(ORDERS, json={"value": 1}, headers=CONTEXT)

    assert await headers_of_records(client) == [[]]
    assert spans.get_finished_spans() == ()


async def test_refusals_are_spans_with_their_code_and_only_faults_of_the_server_are_errors(
    serve: Serve, spans: InMemorySpanExporter
) -> None:
    _, client = await serve(otel=True)

    await client.get("/v1/topics/nothing")

    span = named(spans, "GET /v1/topics/{topic}")
    assert attributes(span)["error.type"] == "UNKNOWN_TOPIC_OR_PARTITION"
    assert attributes(span)["http.response.status_code"] == 404
    assert span.status.status_code is StatusCode.UNSET


async def test_the_token_of_a_source_is_in_no_span(serve: Serve, spans: InMemorySpanExporter) -> None:
    _, client = await serve(otel=True)

    await client.post("/v1/sources/shop:sesame/events", content=b"{}")

    span = named(spans, "POST /v1/sources/{source}/events")
    assert attributes(span)["url.path"] == "/v1/sources/{source}/events"
    assert "sesame" not in span.to_json()


async def test_probes_streams_and_long_polls_have_no_span(serve: Serve, spans: InMemorySpanExporter) -> None:
    _, client = await serve(otel=True)
    await client.post(ORDERS, json={"value": 1})
    spans.clear()

    for path in ("/healthz", "/readyz", "/metrics", f"{ORDERS}?max_wait_ms=1", f"{ORDERS}?max_wait_ms=0"):
        await client.get(path)
    await client.get(f"{ORDERS}?max_wait_ms=1", headers={"Accept": "text/event-stream"})

    assert [span.name for span in spans.get_finished_spans()] == ["GET /v1/topics/{topic}/records"]


async def test_a_delivery_links_to_the_trace_of_its_record_and_passes_it_on(
    serve: Serve, spans: InMemorySpanExporter
) -> None:
    _, client = await serve(otel=True, **SETTINGS)
    async with receiving(lambda _: Answer(200)) as receiver:
        await create(client, receiver.url)
        await client.post(ORDERS, json={"value": 1}, headers=CONTEXT)
        await until_true(lambda: any(span.name == "deliver orders" for span in spans.get_finished_spans()))

    span = named(spans, "deliver orders")
    (link,) = span.links
    assert (f"{link.context.trace_id:032x}", f"{link.context.span_id:016x}") == (TRACE_ID, SPAN_ID)
    assert span.parent is None
    assert span.kind is SpanKind.CLIENT
    found = attributes(span)
    assert (found["millrace.outcome"], found["http.response.status_code"]) == ("delivered", 200)
    assert (found["messaging.destination.subscription.name"], found["millrace.attempt"]) == ("billing", 1)
    assert receiver.posts[0].headers["traceparent"] == PARENT


async def test_a_failed_delivery_is_an_error(serve: Serve, spans: InMemorySpanExporter) -> None:
    _, client = await serve(otel=True, **SETTINGS)
    async with receiving(lambda _: Answer(500)) as receiver:
        await create(client, receiver.url, retry_delays_ms=[3_600_000])
        await produce(client, {"value": 1})
        await until_true(lambda: any(span.name == "deliver orders" for span in spans.get_finished_spans()))

    span = named(spans, "deliver orders")
    assert span.status.status_code is StatusCode.ERROR
    assert attributes(span)["error.type"] == "500"
    assert span.links == ()


async def test_without_its_packages_the_start_says_which_extra_has_them(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)

    with pytest.raises(ValueError, match=r"extra otel of Millrace, .*pip install '\.\[otel\]'"):
        create_app(Settings.model_validate({"database_url": sqlite_url, "otel": True, "ballast_bytes": 0}))

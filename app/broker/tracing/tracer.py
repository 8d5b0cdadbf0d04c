"""Spans of requests, appends and deliveries, with the names of OpenTelemetry's semantic conventions.

Source: the semantic conventions for HTTP, and for messaging, whose names for clients fit a broker best.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, TracerProvider, get_current_span, use_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from app import __version__
from app.domain.log.trace_context import TraceContext

_SYSTEM = "millrace"
_MOST_LINKS = 128
_propagator = TraceContextTextMapPropagator()


class RequestSpan:
    """The span of a request. It is sent when the request was answered; otherwise it is dropped."""

    def __init__(self, span: Span) -> None:
        self._span = span

    def answered(self, status: int, code: str | None = None) -> None:
        """End the span.

        Args:
            status: The status of the answer.
            code: The code of the problem, if the answer is one.
        """
        span = self._span
        span.set_attribute("http.response.status_code", status)
        if code is not None:
            span.set_attribute("error.type", code)
        if status >= 500:
            span.set_status(Status(StatusCode.ERROR))
        span.end()


class Tracer:
    """Begins spans.

    Args:
        provider: Where they go.
    """

    def __init__(self, provider: TracerProvider) -> None:
        self._tracer = provider.get_tracer("millrace", __version__)

    @contextmanager
    def request(self, method: str, route: str, path: str, context: TraceContext | None) -> Iterator[RequestSpan]:
        """Begin the span of a request, which is the parent of those that begin within.

        Args:
            method: The method.
            route: The path with the names of its parameters.
            path: The path.
            context: The trace context that the client sent.
        """
        attributes = {"http.request.method": method, "http.route": route, "url.path": path}
        span = self._tracer.start_span(f"{method} {route}", _context_of(context), SpanKind.SERVER, attributes)
        with use_span(span, end_on_exit=False, record_exception=False, set_status_on_exception=False):
            yield RequestSpan(span)

    @contextmanager
    def append(self, topic: str, records: int) -> Iterator[None]:
        """Span the append of records, until they are on disk."""
        attributes: dict[str, str | int] = _messaging("send", "send", topic)
        attributes["messaging.batch.message_count"] = records
        with self._tracer.start_as_current_span(f"send {topic}", None, SpanKind.PRODUCER, attributes):
            yield

    @contextmanager
    def delivery(
        self, webhook: str, topic: str, attempt: int, contexts: Sequence[TraceContext | None]
    ) -> Iterator[DeliverySpan]:
        """Span an attempt of a webhook, with a link to the trace of each record.

        Args:
            webhook: Name of the webhook.
            topic: Topic of the first record.
            attempt: Number of the attempt.
            contexts: The trace context of each record.
        """
        attributes: dict[str, str | int] = _messaging("deliver", "send", topic)
        attributes |= {
            "messaging.destination.subscription.name": webhook,
            "messaging.batch.message_count": len(contexts),
            "millrace.attempt": attempt,
        }
        links = [
            Link(get_current_span(_context_of(each)).get_span_context()) for each in contexts[:_MOST_LINKS] if each
        ]
        name = f"deliver {topic}"
        with self._tracer.start_as_current_span(name, Context(), SpanKind.CLIENT, attributes, links) as span:
            yield DeliverySpan(span)


class DeliverySpan:
    """The span of an attempt."""

    def __init__(self, span: Span) -> None:
        self._span = span

    def ended(self, outcome: str, status: int | None) -> None:
        """Note the outcome of the attempt, and the status of the receiver's answer if there was one."""
        self._span.set_attribute("millrace.outcome", outcome)
        if status is not None:
            self._span.set_attribute("http.response.status_code", status)
        if outcome != "delivered":
            self._span.set_attribute("error.type", outcome if status is None else str(status))
            self._span.set_status(Status(StatusCode.ERROR))


def _messaging(name: str, kind: str, topic: str) -> dict[str, str | int]:
    return {
        "messaging.system": _SYSTEM,
        "messaging.operation.name": name,
        "messaging.operation.type": kind,
        "messaging.destination.name": topic,
    }


def _context_of(context: TraceContext | None) -> Context:
    """Return OpenTelemetry's context; an empty one without a trace context."""
    if context is None:
        return Context()
    carrier: Mapping[str, str] = {"traceparent": context.traceparent, "tracestate": context.tracestate}
    return _propagator.extract(carrier, Context())

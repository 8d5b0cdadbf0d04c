"""Spans of requests, and the trace context of their records, for servers that send traces."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from app.api.http.call import Call, Reply
from app.api.http.operations import Operation, OperationRoute
from app.api.http.problems import STATUS
from app.domain.log import trace_context
from app.domain.log.trace_context import TraceContext
from app.errors.broker_error import BrokerError

if TYPE_CHECKING:
    from app.broker.tracing.tracer import Tracer

_PROBES = {"get_health", "get_readiness", "get_metrics"}
_PATHS_WITH_SECRETS = "/v1/sources/{source}/events"
"""The path of a delivery has the token of a source without signatures."""


class TracedOperation(Operation):
    """An operation with a span around it.

    Streams and requests that may wait for records have none: their time is that of the wait.
    """

    def __init__(self, operation: Operation, tracer: Tracer) -> None:
        super().__init__(operation.path, operation.handler)
        self._tracer = tracer

    async def __call__(self, call: Call) -> Reply:
        """Run the operation within a span."""
        context = trace_context.parse(call.header(b"traceparent"), call.header(b"tracestate"))
        scope = call.scope
        path = self.path if self.path == _PATHS_WITH_SECRETS else scope["path"]
        with self._tracer.request(scope["method"], self.path, path, context) as span:
            try:
                reply = await super().__call__(call)
            except BrokerError as error:
                if not call.waits:
                    span.answered(STATUS[type(error)], error.code)
                raise
            if reply.stream is None and not call.waits:
                span.answered(reply.status)
        return reply


def traced_operations(routes: Iterable[OperationRoute], tracer: Tracer) -> dict[str, Operation]:
    """Return the operations with spans around them, by name, without the probes."""
    operations = [route.operation for route in routes]
    return {each.name: TracedOperation(each, tracer) for each in operations if each.name not in _PROBES}


def trace_of(call: Call) -> TraceContext | None:
    """Return the trace context that the records of a request carry; None if the server sends no traces."""
    if call.services.tracer is None:
        return None
    return trace_context.parse(call.header(b"traceparent"), call.header(b"tracestate"))

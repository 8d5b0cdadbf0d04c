"""Build what sends traces, if the settings turn it on."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING
from uuid import uuid4

from app import __version__
from app.api.monitoring.traced_operations import traced_operations
from app.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.util.types import AttributeValue

    from app.api.http.operations import Operation, OperationRoute
    from app.broker.tracing.tracer import Tracer

_EXTRA = (
    "MILLRACE_OTEL needs the packages of OpenTelemetry, which are not installed: install the extra "
    "otel of Millrace, in a checkout with .venv/bin/pip install '.[otel]', or start without MILLRACE_OTEL"
)


class Traces:
    """The tracer, and what sends its spans.

    Attributes:
        tracer: Begins spans.
    """

    def __init__(self, settings: Settings) -> None:
        """Build the provider. The variables `OTEL_…` of OpenTelemetry apply.

        Args:
            settings: The settings.

        Raises:
            ValueError: The packages of OpenTelemetry are missing.
        """
        try:
            from opentelemetry.sdk.resources import (  # noqa: PLC0415 - only servers that send traces
                OTELResourceDetector,
                Resource,
            )
            from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 - as above

            from app.broker.tracing.tracer import Tracer  # noqa: PLC0415 - as above

            processor = span_processor()
        except ModuleNotFoundError as error:
            raise ValueError(_EXTRA) from error
        service: dict[str, AttributeValue] = {
            "service.name": "millrace",
            "service.version": __version__,
            "service.instance.id": uuid4().hex,
            "server.address": settings.host,
            "server.port": settings.port,
        }
        resource = Resource.create(service).merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self.tracer: Tracer = Tracer(self._provider)

    def operations(self, routes: Iterable[OperationRoute]) -> dict[str, Operation]:
        """Return the operations that have spans, by name, with their spans around them."""
        return traced_operations(routes, self.tracer)

    async def close(self) -> None:
        """Send the last spans. A collector that does not answer does not delay the end of the process."""
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def shut_down() -> None:
            self._provider.shutdown()
            with contextlib.suppress(RuntimeError):  # the event loop has ended meanwhile
                loop.call_soon_threadsafe(done.set)

        threading.Thread(target=shut_down, name="millrace-traces", daemon=True).start()
        await done.wait()


def span_processor() -> SpanProcessor:
    """Return what sends spans to a collector, by OTLP over HTTP."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415 - only servers that send traces
        OTLPSpanExporter,
    )
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415 - as above

    return BatchSpanProcessor(OTLPSpanExporter())

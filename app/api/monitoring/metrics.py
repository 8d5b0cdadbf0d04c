"""Metrics of a node in Prometheus' text format."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

from fastapi import APIRouter
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from app.api.http.call import Call, Reply
from app.api.http.operations import Description, OperationRoute, describe
from app.api.services import Services
from app.domain.access.permission import on
from app.errors.broker_error import BrokerError

router = APIRouter(tags=["operations"], route_class=OperationRoute)

_METRICS_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


@router.get("/metrics")
@describe(Description(permission=on("cluster", "describe"), answers={200: None}, media=("text/plain",)))
async def get_metrics(call: Call) -> Reply:
    """Return this node's metrics in Prometheus' text format.

    Counters start at 0 with the process; with several nodes, scrape each.
    """
    lags: dict[str, int] = {}
    with contextlib.suppress(BrokerError):  # the metrics of the node are there without the database too
        lags = await call.services.dispatcher.lags()
    registry = CollectorRegistry()
    registry.register(_NodeMetrics(call.services, lags))
    return Reply(generate_latest(registry), 200, _METRICS_TYPE)


class _NodeMetrics(Collector):
    """Reads the counters of this node at each scrape.

    Args:
        lags: Records that have not ended, by webhook.
    """

    def __init__(self, services: Services, lags: Mapping[str, int]) -> None:
        self._services = services
        self._lags = lags

    def collect(self) -> Iterator[Metric]:
        """Return all metrics."""
        answers = CounterMetricFamily(
            "millrace_http_answers", "Answers by operation and status.", labels=["operation", "status"]
        )
        for (operation, status), number in self._services.answers.items():
            answers.add_metric([operation, str(status)], number)
        yield answers
        appender = self._services.appender
        yield CounterMetricFamily("millrace_appended_records", "Records appended.", value=appender.records)
        yield CounterMetricFamily("millrace_append_requests", "Append requests answered.", value=appender.requests)
        yield CounterMetricFamily(
            "millrace_append_transactions", "Transactions that committed append requests.", value=appender.transactions
        )
        yield CounterMetricFamily(
            "millrace_queue_requests",
            "Acquire and acknowledge requests answered.",
            value=self._services.deliveries.requests,
        )
        yield CounterMetricFamily(
            "millrace_queue_transactions",
            "Transactions of acquire and acknowledge requests.",
            value=self._services.deliveries.transactions,
        )
        yield GaugeMetricFamily(
            "millrace_pending_append_bytes",
            "Bytes of appends that wait for a commit.",
            value=appender.pending_bytes,
        )
        yield GaugeMetricFamily(
            "millrace_waiting_reads", "Reads that wait for records.", value=self._services.signals.waiting
        )
        yield GaugeMetricFamily("millrace_open_streams", "Open streams.", value=self._services.streams.open)
        yield GaugeMetricFamily(
            "millrace_disk_full",
            "1 while appends are refused for lack of space.",
            value=float(self._services.storage.full),
        )
        yield CounterMetricFamily(
            "millrace_source_refusals", "Refused deliveries to sources.", value=self._services.receiver.refused
        )
        yield from self._webhooks()

    def _webhooks(self) -> Iterator[Metric]:
        """Return the metrics of the webhooks that this node works."""
        log = self._services.dispatcher.log
        attempts = CounterMetricFamily("millrace_webhook_attempts", "Attempts by outcome.", labels=["outcome"])
        for outcome, number in log.totals.items():
            attempts.add_metric([outcome], number)
        yield attempts
        yield CounterMetricFamily(
            "millrace_webhook_attempt_seconds", "Time that attempts took, all together.", value=log.duration_ms / 1000
        )
        lag = GaugeMetricFamily(
            "millrace_webhook_lag_records",
            "Records that have not ended: waiting, retried, in flight.",
            labels=["webhook"],
        )
        for webhook, number in self._lags.items():
            lag.add_metric([webhook], number)
        yield lag
        retrying = GaugeMetricFamily(
            "millrace_webhook_retrying_records", "Records that failed and are attempted again.", labels=["webhook"]
        )
        in_flight = GaugeMetricFamily("millrace_webhook_attempts_in_flight", "Attempts now.", labels=["webhook"])
        breakers = GaugeMetricFamily(
            "millrace_webhook_breaker_open", "1 while most attempts fail and are held back.", labels=["webhook"]
        )
        for each in self._services.dispatcher.snapshots():
            retrying.add_metric([each.webhook], each.retrying)
            in_flight.add_metric([each.webhook], each.in_flight)
            breakers.add_metric([each.webhook], float(each.is_breaker_open))
        yield from (retrying, in_flight, breakers)

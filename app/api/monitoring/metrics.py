"""Metrics of a node in Prometheus' text format."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

from fastapi import APIRouter
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from app.api.http.call import Call, Reply
from app.api.http.operations import Description, OperationRoute, describe
from app.api.monitoring.database_metrics import database_metrics
from app.api.monitoring.node_metrics import node_metrics
from app.broker.observation.readings import Readings
from app.domain.access.permission import on
from app.errors.http import NotFound

router = APIRouter(tags=["operations"], route_class=OperationRoute)

_METRICS_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


@router.get("/metrics")
@describe(
    Description(permission=on("cluster", "describe"), answers={200: None}, errors=(NotFound,), media=("text/plain",))
)
async def get_metrics(call: Call) -> Reply:
    """Return this node's metrics in Prometheus' text format.

    Counters start at 0 with the process; with several nodes, scrape each. The lag of groups and the depth of queues
    are read from the database, within two seconds; while it does not answer, the node's own metrics are returned.
    """
    if not call.services.metrics.enabled:
        raise NotFound("the metrics are turned off; start the server without MILLRACE_METRICS=false")
    services = call.services
    found = await services.database_reader.read()
    counted = list(node_metrics(services))  # on the event loop, which changes what they read
    text = await asyncio.to_thread(
        _text, counted, found, services.metrics_group_prefix, services.metrics_partition_series
    )
    return Reply(text, 200, _METRICS_TYPE)


def _text(counted: Sequence[Metric], found: Readings | None, prefix: str, most_partitions: int) -> bytes:
    registry = CollectorRegistry()
    registry.register(_Collected([*counted, *database_metrics(found, prefix, most_partitions)]))
    ProcessCollector(registry=registry)
    return generate_latest(registry)


class _Collected(Collector):
    """The metrics of one scrape."""

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        """Return all metrics."""
        return iter(self._metrics)

    def describe(self) -> Iterator[Metric]:
        """Return nothing: the names are not checked against those of other collectors."""
        return iter(())

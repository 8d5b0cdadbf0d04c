"""Metrics of a node in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Iterator

from fastapi import APIRouter
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from app.api.http.call import Call, Reply
from app.api.http.operations import Description, OperationRoute, describe
from app.api.monitoring import readings
from app.api.monitoring.database_metrics import database_metrics
from app.api.monitoring.node_metrics import node_metrics
from app.api.monitoring.readings import Readings
from app.api.services import Services
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
    found = await readings.read(call.services)
    registry = CollectorRegistry()
    registry.register(_AllMetrics(call.services, found))
    ProcessCollector(registry=registry)
    return Reply(generate_latest(registry), 200, _METRICS_TYPE)


class _AllMetrics(Collector):
    """The metrics of one scrape.

    Args:
        services: The parts of the node.
        found: What was read from the database, or None.
    """

    def __init__(self, services: Services, found: Readings | None) -> None:
        self._services = services
        self._found = found

    def collect(self) -> Iterator[Metric]:
        """Return all metrics."""
        services = self._services
        yield from node_metrics(services)
        yield from database_metrics(self._found, services.metrics_group_prefix, services.metrics_partition_series)

    def describe(self) -> Iterator[Metric]:
        """Return nothing: the names are not checked against those of other collectors."""
        return iter(())

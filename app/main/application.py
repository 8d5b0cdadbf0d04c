"""Build the application: the only module that creates its parts and connects them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.exceptions import HTTPException as RouterException  # noqa: TID251 - the exception of the router
from starlette.types import ASGIApp, Scope

from app import __version__
from app.api.documents import guides, openapi, problem_pages, swagger_ui
from app.api.http.gateway import Gateway, answer_unmatched
from app.api.routers import ROUTERS
from app.api.services import Services
from app.broker.log.broker_clock import BrokerClock
from app.broker.queues import bulk_changes
from app.broker.waiting.deadline import monotonic_ms
from app.domain.metrics.node_metrics import NodeMetrics
from app.errors.http import MethodNotAllowed
from app.main.lifespan import lifespan
from app.main.services import build_services
from app.main.tracing import Traces
from app.settings import Settings
from app.storage.db import schema
from app.storage.db.engine import Storage
from app.storage.db.opening import open_storage
from app.tasks.notices import Outbox
from app.tasks.runner import TaskRunner

if TYPE_CHECKING:
    pass

_log = logging.getLogger(__name__)
_REFUSAL_DELAY_S = 0.3
"""After the stop begins, requests can still start a transaction for this time."""


def wall_clock_ms() -> int:
    """Return the Unix epoch in milliseconds."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True)
class Application:
    """The application: `asgi` is what a server runs, `api` the FastAPI inside it.

    `client_of` returns the address of a request's client behind a proxy, `is_proxy` whether an address is that of one;
    None without proxies.
    """

    asgi: ASGIApp
    api: FastAPI
    services: Services
    client_of: Callable[[Scope], str] | None = None
    is_proxy: Callable[[str], bool] | None = None

    def stop(self) -> None:
        """End all waits, so that waiting requests are answered and the server can stop.

        Requests that wait for a transaction have a moment to get one; then they are refused. Call it in the event loop.
        """
        self.services.signals.close()
        asyncio.get_running_loop().call_later(_REFUSAL_DELAY_S, self._refuse_waiting)

    def _refuse_waiting(self) -> None:
        self.services.appender.refuse_waiting()
        self.services.deliveries.refuse_waiting()


def create_app(
    settings: Settings,
    session_clock_ms: Callable[[], int] = monotonic_ms,
    wall_ms: Callable[[], int] = wall_clock_ms,
) -> Application:
    """Build the application.

    Args:
        settings: The settings.
        session_clock_ms: Monotonic clock in milliseconds, for sessions and for checks of the wall clock.
        wall_ms: Wall clock in milliseconds, for an SQLite database; PostgreSQL has its own.

    Raises:
        ValueError, DatabaseInUse: The database cannot be opened.
        SchemaNotCurrent: PostgreSQL's tables are not current; the message has the command to migrate them.
    """
    storage = _open_database(settings)
    try:
        return _build_application(settings, storage, session_clock_ms, wall_ms)
    except BaseException:
        storage.close()
        raise


def _build_application(
    settings: Settings, storage: Storage, session_clock_ms: Callable[[], int], wall_ms: Callable[[], int]
) -> Application:
    metrics = NodeMetrics(enabled=settings.metrics)
    runner = TaskRunner(in_outage=lambda: storage.in_outage, counts=metrics.tasks)
    outbox = Outbox()
    clock = BrokerClock(
        storage,
        wall_ms=wall_ms,
        monotonic_ms=session_clock_ms,
        grace_ms=settings.clock_grace_ms,
        on_step_back=bulk_changes.step_back,
    )
    traces = Traces(settings) if settings.otel else None
    tracer = None if traces is None else traces.tracer
    archive_task, services = build_services(settings, storage, runner, outbox, clock, session_clock_ms, metrics, tracer)
    api = _build_api(services)
    if traces is not None:
        api.state.traced = traces.operations(openapi.operations(api))
    api.router.lifespan_context = lambda _: lifespan(settings, services, runner, outbox, archive_task, traces)
    gateway = Gateway(
        api,
        services,
        openapi.operations(api),
        hosts=settings.allowed_hosts,
        origins=settings.cors_origins,
        root_path=settings.root_path,
        proxies=settings.trusted_proxies,
        traced=api.state.traced,
    )
    return Application(gateway, api, services, gateway.client_of, gateway.is_proxy)


def _open_database(settings: Settings) -> Storage:
    """Open the database. SQLite's tables are migrated; PostgreSQL's must be current."""
    storage = open_storage(settings.database_url, ballast_bytes=settings.ballast_bytes)
    try:
        storage.require_sessions()
        if storage.dialect.shared:
            storage.read_now(schema.check)
        else:
            storage.write_now(schema.upgrade)
    except BaseException:
        storage.close()
        raise
    return storage


def _build_api(services: Services) -> FastAPI:
    api = FastAPI(
        title="Millrace", version=__version__, docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False
    )
    api.state.services = services
    api.state.traced = {}
    for router in ROUTERS:
        api.include_router(router)
    api.router.routes.extend(
        [
            *swagger_ui.docs_routes(),
            openapi.openapi_route(api),
            *problem_pages.problem_routes(),
            *guides.guide_routes(),
        ]
    )
    api.add_exception_handler(RouterException, answer_unmatched)
    api.add_exception_handler(MethodNotAllowed, answer_unmatched)
    return api

"""The application: the only place where things are built."""

from __future__ import annotations

import asyncio
import gc
import re
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass

from fastapi import FastAPI
from starlette.exceptions import HTTPException as RouterException  # noqa: TID251 - what the router raises
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from app import __version__
from app.api import transactions
from app.api.groups import groups, members, offsets
from app.api.http import docs, openapi, operations, problem_pages
from app.api.http.call import Reply, request_id
from app.api.http.gateway import Gateway, allowed_hosts
from app.api.log import fetch, produce, producers, topics
from app.api.queues import deliveries, queues
from app.api.services import Services
from app.broker.groups.coordinator import Coordinator, Limits
from app.broker.groups.offsets import Offsets
from app.broker.groups.poller import Poller
from app.broker.log.appender import Appender
from app.broker.log.fetcher import Fetcher
from app.broker.log.producer import Producer
from app.broker.log.streams import Streams
from app.broker.log.topics import Topics
from app.broker.queues.delivery_batcher import DeliveryBatcher
from app.broker.queues.queues import Queues
from app.broker.queues.redriver import Redriver
from app.broker.queues.topic_queues import TopicQueues
from app.broker.transactions import Transactions
from app.broker.waiting.signals import Signals
from app.domain.log.topic import TopicConfig
from app.errors.broker_error import BrokerError
from app.errors.http import MethodNotAllowed, NotFound
from app.settings import Settings
from app.storage.db import schema
from app.storage.db.engine import Storage
from app.storage.db.opening import open_storage
from app.tasks.archiving import ArchiveTask
from app.tasks.notices import Outbox, hear_notices, open_notices, poll_watched, send_notices
from app.tasks.retention import Retention
from app.tasks.runner import TaskRunner

_GIL_SWITCH_S = 0.0001
"""A worker thread that has its rows waits this long for a busy event loop, instead of the 5 ms that are the default."""
_GARBAGE_OBJECTS = 50_000
"""As many new objects start a collection. By the default of 700 it took a fifth of the time under load."""
_PURGE_INTERVAL_MS = 1_000
_FORGET_INTERVAL_MS = 600_000
_SPACE_INTERVAL_MS = 1_000
_TICK_INTERVAL_MS = 1_500
_DELIVERY_INTERVAL_MS = 1_000
_RECHECK_POLLS = 10
"""Polls after which a waiting acquire looks by itself: every other look of it locks windows."""
_DRAIN_S = 0.5

_ROUTERS = (
    topics.router,
    produce.router,
    fetch.router,
    topics.partitions,
    producers.router,
    members.router,
    offsets.router,
    transactions.router,
    members.details,
    groups.router,
    queues.router,
    deliveries.router,
    queues.admin,
    operations.router,
)
"""In the order of the document, in which the examples run on an empty server."""


def wall_clock_ms() -> int:
    """Return the Unix epoch in milliseconds."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True)
class Application:
    """The application: `asgi` is what a server runs, `api` the FastAPI inside it."""

    asgi: ASGIApp
    api: FastAPI
    services: Services

    def stop(self) -> None:
        """End all waits, so that parked reads answer and the server can close."""
        self.services.signals.close()


def create_app(settings: Settings) -> Application:
    """Build the application.

    Raises:
        ValueError, DatabaseInUse: The database cannot be opened.
        SchemaNotCurrent: PostgreSQL's tables are not current; the message has the command.
    """
    storage = open_storage(settings.database_url, ballast_bytes=settings.ballast_bytes)
    try:
        if storage.dialect.shared:
            storage.read_now(schema.check)
        else:
            storage.write_now(schema.upgrade)
    except BaseException:
        storage.close()
        raise
    runner = TaskRunner()
    outbox = Outbox()
    services, delivery = _services(settings, storage, runner, outbox)
    api = FastAPI(
        title="Millrace", version=__version__, docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False
    )
    api.router.lifespan_context = lambda _: _lifespan(settings, services, runner, outbox, delivery)
    api.state.services = services
    for router in _ROUTERS:
        api.include_router(router)
    api.router.routes.extend([*docs.docs_routes(), openapi.openapi_route(api), *problem_pages.problem_routes()])
    api.add_exception_handler(RouterException, _not_served)
    api.add_exception_handler(MethodNotAllowed, _not_served)
    shell = Gateway(
        api,
        services,
        openapi.operations(api),
        hosts=allowed_hosts(settings.host, settings.allowed_hosts),
        origins=settings.cors_origins,
    )
    return Application(shell, api, services)


def _services(settings: Settings, storage: Storage, runner: TaskRunner, outbox: Outbox) -> tuple[Services, ArchiveTask]:
    clock = wall_clock_ms
    signals = Signals(outbox.put if storage.dialect.shared else None)
    catalogue = Topics(
        storage,
        signals,
        defaults=_defaults(settings),
        default_partitions=settings.default_partitions,
        clock=clock,
        dependents=(TopicQueues(),),
    )
    appender = Appender(storage, signals, clock=clock, max_pending_bytes=settings.max_pending_bytes)
    producer = Producer(storage, catalogue, appender, auto_create_topics=settings.auto_create_topics, clock=clock)
    fetcher = Fetcher(storage, catalogue, signals)
    groups = Coordinator(storage, catalogue, signals, Limits(settings.max_groups, settings.max_group_members))
    offsets = Offsets(storage, catalogue, settings.max_groups)
    delivery = ArchiveTask(storage, signals, _defaults(settings))
    known_queues = Queues(storage, catalogue, signals)
    services = Services(
        storage=storage,
        signals=signals,
        topics=catalogue,
        appender=appender,
        producer=producer,
        fetcher=fetcher,
        streams=Streams(fetcher, signals, comment_interval_ms=settings.stream_comment_interval_ms),
        groups=groups,
        offsets=offsets,
        poller=Poller(storage, catalogue, signals, groups, offsets),
        transactions=Transactions(
            storage, catalogue, signals, producer, offsets, clock_ms=clock, max_groups=settings.max_groups
        ),
        queues=known_queues,
        deliveries=DeliveryBatcher(
            storage,
            known_queues,
            signals,
            recheck_ms=settings.poll_interval_ms * _RECHECK_POLLS,
            to_archive=delivery.wake,
        ),
        redriver=Redriver(storage, catalogue, known_queues, signals),
        clock=clock,
        tasks_failing=runner.failing,
        max_body_bytes=settings.max_body_bytes,
        max_records=settings.max_records,
        max_wait_ms=settings.max_wait_ms,
    )
    return services, delivery


def _defaults(settings: Settings) -> TopicConfig:
    return TopicConfig(max_message_bytes=settings.max_message_bytes)


@asynccontextmanager
async def _lifespan(
    settings: Settings, services: Services, runner: TaskRunner, outbox: Outbox, delivery: ArchiveTask
) -> AsyncIterator[None]:
    sys.setswitchinterval(_GIL_SWITCH_S)
    with _rare_collections():
        async with _running(settings, services, runner, outbox, delivery):
            yield


@contextmanager
def _rare_collections() -> Iterator[None]:
    """Let the garbage collector look at what is new only, and seldom: a request leaves no cycle behind."""
    thresholds = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(_GARBAGE_OBJECTS)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()


@asynccontextmanager
async def _running(
    settings: Settings, services: Services, runner: TaskRunner, outbox: Outbox, delivery: ArchiveTask
) -> AsyncIterator[None]:
    storage = services.storage
    retention = Retention(storage, _defaults(settings), services.clock)
    runner.every("retention", settings.retention_interval_ms, retention.raise_starts)
    runner.every("compaction", settings.retention_interval_ms, retention.compact)
    runner.every("purge", min(_PURGE_INTERVAL_MS, settings.retention_interval_ms), retention.purge)
    runner.every("forget", _FORGET_INTERVAL_MS, retention.forget)
    runner.every("rebalance", settings.rebalance_interval_ms, services.groups.rebalance)
    runner.every("tick", _TICK_INTERVAL_MS, services.groups.tick)
    runner.every("offsets", _FORGET_INTERVAL_MS, services.offsets.expire)
    runner.forever("delivery", lambda on_success: delivery.run(_DELIVERY_INTERVAL_MS, on_success))
    notices = open_notices(settings.database_url) if storage.dialect.shared else None
    if notices is not None:
        runner.forever(
            "notices-out", lambda on_success: send_notices(outbox, notices, settings.notify_interval_ms, on_success)
        )
        runner.forever("notices-in", lambda on_success: hear_notices(services.signals, notices, on_success))
        runner.every("poll", settings.poll_interval_ms, lambda: poll_watched(storage, services.signals))
    else:
        runner.every("space", _SPACE_INTERVAL_MS, storage.look_for_space)
    try:
        yield
    finally:
        services.signals.close()
        with suppress(TimeoutError):
            drains = services.appender.drain(), services.groups.drain(), services.deliveries.drain()
            await asyncio.wait_for(asyncio.gather(*drains), _DRAIN_S)
        await runner.stop()
        if notices is not None:
            await notices.close()
        storage.close()


async def _not_served(request: Request, error: Exception) -> Response:
    """Answer what no route serves."""
    refusal: BrokerError = NotFound(f"there is nothing at this path; {_where(request.url.path)}")
    if isinstance(error, MethodNotAllowed):
        refusal = error
    elif isinstance(error, RouterException) and error.status_code == 405:
        allow = (error.headers or {}).get("Allow", "")
        refusal = MethodNotAllowed(f"this path allows {allow}", allow=allow)
    reply = Reply.problem(refusal, request_id(request.scope))
    headers = {name.decode(): value.decode() for name, value in reply.headers}
    return Response(reply.body, reply.status, headers, reply.content_type.decode())


_HINTS = {
    re.compile(r".*/$"): "try it without the trailing slash",
    re.compile(r"/(topics|groups|queues|transactions)(/|$)"): "paths of the API begin with /v1",
    re.compile(r"/v1/topics(/|$)"): "records are at /v1/topics/{topic}/records; /docs shows all paths",
    re.compile(
        r"/v1/queues/[^/]+/(pause|resume)$"
    ): 'PATCH /v1/queues/{queue} with {"paused":true} pauses, false resumes',
}


def _where(path: str) -> str:
    """Return what to do about a path that is none."""
    return next((hint for pattern, hint in _HINTS.items() if pattern.match(path)), "/docs shows all paths")

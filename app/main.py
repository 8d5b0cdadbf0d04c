"""Build the application: the only module that creates its parts and connects them."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
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
from app.broker.encryption.secret_box import SecretBox, keys_of
from app.broker.groups.coordinator import Coordinator
from app.broker.groups.group_transactions import Limits
from app.broker.groups.offsets import Offsets
from app.broker.groups.poller import Poller
from app.broker.log.appender import Appender
from app.broker.log.broker_clock import BrokerClock
from app.broker.log.fetcher import Fetcher
from app.broker.log.page_reads import PageReads
from app.broker.log.producer import Producer
from app.broker.log.streams import Streams
from app.broker.log.topics import Topics
from app.broker.queues import bulk_changes
from app.broker.queues.deliveries.delivery_batcher import DeliveryBatcher
from app.broker.queues.queues import Queues
from app.broker.queues.redriver import Redriver
from app.broker.queues.topic_queues import TopicQueues
from app.broker.sources.receiver import Receiver
from app.broker.sources.refusals import Refusals
from app.broker.sources.sources import Sources
from app.broker.transactions import Transactions
from app.broker.waiting.deadline import monotonic_ms
from app.broker.waiting.memory_budget import MemoryBudget
from app.broker.waiting.signals import Signals
from app.domain.log.topic import TopicConfig
from app.errors.http import MethodNotAllowed
from app.server import allocator
from app.server.cgroup import default_budget_bytes
from app.settings import Settings
from app.storage.db import schema
from app.storage.db.engine import Storage
from app.storage.db.opening import open_storage
from app.tasks.archiving import ArchiveTask
from app.tasks.notices import Outbox, open_notices, poll_watched, receive_notices, send_notices
from app.tasks.retention import Retention
from app.tasks.runner import TaskRunner

if TYPE_CHECKING:
    from app.storage.db.postgres.notices import Notices

_log = logging.getLogger(__name__)
_THREAD_SWITCH_INTERVAL_S = 0.0001
"""How long a worker thread with a result waits for a busy event loop; Python's default is 5 ms."""
_COLLECTION_THRESHOLD = 50_000
"""New objects that start a garbage collection. With Python's default of 700, collections take 20 % of the time under
load."""
_PURGE_INTERVAL_MS = 1_000
_EXPIRY_INTERVAL_MS = 600_000
_DISK_CHECK_INTERVAL_MS = 1_000
_FILE_CHECK_INTERVAL_MS = 500
_SESSION_INTERVAL_MS = 1_500
_CLOCK_INTERVAL_MS = 1_500
_MEMORY_INTERVAL_MS = 2_000
_SESSION_CHECK_INTERVAL_MS = 60_000
_ARCHIVE_INTERVAL_MS = 1_000
_REFUSAL_INTERVAL_MS = 1_000
_POLLS_PER_RECHECK = 10
"""A waiting acquire checks the database without a notice once in so many poll intervals: each check locks share
partitions."""
_DRAIN_TIMEOUT_S = 0.2
_REFUSAL_DELAY_S = 0.3
"""After the stop begins, requests can still start a transaction for this time."""


def wall_clock_ms() -> int:
    """Return the Unix epoch in milliseconds."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True)
class Application:
    """The application: `asgi` is what a server runs, `api` the FastAPI inside it.

    `client_of` returns the address of a request's client behind a proxy; None without proxies.
    """

    asgi: ASGIApp
    api: FastAPI
    services: Services
    client_of: Callable[[Scope], str] | None = None

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
    runner = TaskRunner(in_outage=lambda: storage.in_outage)
    outbox = Outbox()
    clock = BrokerClock(
        storage,
        wall_ms=wall_ms,
        monotonic_ms=session_clock_ms,
        grace_ms=settings.clock_grace_ms,
        on_step_back=bulk_changes.step_back,
    )
    archive_task, services = _build_services(settings, storage, runner, outbox, clock, session_clock_ms)
    api = _build_api(services)
    api.router.lifespan_context = lambda _: _lifespan(settings, services, runner, outbox, archive_task)
    gateway = Gateway(
        api,
        services,
        openapi.operations(api),
        hosts=settings.allowed_hosts,
        origins=settings.cors_origins,
        root_path=settings.root_path,
        proxies=settings.trusted_proxies,
    )
    return Application(gateway, api, services, gateway.client_of)


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


def _build_services(
    settings: Settings,
    storage: Storage,
    runner: TaskRunner,
    outbox: Outbox,
    clock: BrokerClock,
    session_clock_ms: Callable[[], int],
) -> tuple[ArchiveTask, Services]:
    topic_defaults = _topic_defaults(settings)
    memory = MemoryBudget(settings.memory_budget_bytes or default_budget_bytes(), allocator.trim)
    signals = Signals(outbox.put if storage.dialect.shared else None)
    topics = Topics(
        storage,
        signals,
        defaults=topic_defaults,
        default_partitions=settings.default_partitions,
        clock=clock,
        dependents=(TopicQueues(),),
    )
    appender = Appender(storage, signals, clock=clock, max_pending_bytes=settings.max_pending_bytes)
    producer = Producer(storage, topics, appender, auto_create_topics=settings.auto_create_topics, clock=clock)
    page_reads = PageReads(storage, memory.work)
    fetcher = Fetcher(page_reads, topics, signals)
    limits = Limits(settings.max_groups, settings.max_group_members)
    groups = Coordinator(storage, topics, signals, limits, session_clock_ms)
    offsets = Offsets(storage, topics, settings.max_groups)
    archive_task = ArchiveTask(storage, signals, topic_defaults)
    box = SecretBox(lambda: keys_of(settings.secret_key, storage.dialect.path))
    sources = Sources(storage, topics, box, session_clock_ms)
    refusals = Refusals(storage, session_clock_ms)
    queues = Queues(storage, topics, signals)
    services = Services(
        storage=storage,
        signals=signals,
        topics=topics,
        appender=appender,
        producer=producer,
        fetcher=fetcher,
        streams=Streams(
            fetcher,
            signals,
            comment_interval_ms=settings.stream_comment_interval_ms,
            unread_bytes=memory.ledger.shares.small_of_address,
        ),
        groups=groups,
        offsets=offsets,
        poller=Poller(storage, topics, signals, groups, offsets, page_reads),
        transactions=Transactions(
            storage, topics, signals, producer, offsets, clock_ms=clock, max_groups=settings.max_groups
        ),
        queues=queues,
        deliveries=DeliveryBatcher(
            storage,
            queues,
            signals,
            recheck_ms=settings.poll_interval_ms * _POLLS_PER_RECHECK,
            to_archive=archive_task.wake,
        ),
        redriver=Redriver(storage, topics, queues, signals),
        sources=sources,
        receiver=Receiver(sources, producer, refusals, clock),
        public_url=settings.public_url,
        clock=clock,
        memory=memory,
        tasks_failing=runner.failing,
        max_body_bytes=min(settings.max_body_bytes, memory.ledger.shares.body),
        max_records=settings.max_records,
        max_wait_ms=settings.max_wait_ms,
    )
    return archive_task, services


def _topic_defaults(settings: Settings) -> TopicConfig:
    return TopicConfig(max_message_bytes=settings.max_message_bytes)


@asynccontextmanager
async def _lifespan(
    settings: Settings, services: Services, runner: TaskRunner, outbox: Outbox, archive_task: ArchiveTask
) -> AsyncIterator[None]:
    """Run the background tasks while the application serves; then commit what is pending and close everything."""
    sys.setswitchinterval(_THREAD_SWITCH_INTERVAL_S)
    storage = services.storage
    async with AsyncExitStack() as stop:  # a step of the stop that fails does not prevent the next ones
        stop.enter_context(_infrequent_collections())
        stop.callback(storage.close)
        stop.callback(services.memory.close)
        notices = open_notices(settings.database_url) if storage.dialect.shared else None
        if notices is not None:
            stop.push_async_callback(notices.close)
        stop.push_async_callback(lambda: _within_drain_timeout(runner.stop(), "the end of background tasks"))
        stop.push_async_callback(lambda: _within_drain_timeout(_drain(services), "the end of transactions"))
        stop.callback(services.signals.close)
        _start_tasks(settings, services, runner, archive_task)
        if notices is not None:
            _start_notice_tasks(settings, services, runner, outbox, notices)
        else:
            runner.every("disk-check", _DISK_CHECK_INTERVAL_MS, storage.check_space)
            runner.every("file-check", _FILE_CHECK_INTERVAL_MS, storage.check_files)
        yield


async def _drain(services: Services) -> None:
    await asyncio.gather(services.appender.drain(), services.groups.drain(), services.deliveries.drain())


async def _within_drain_timeout(work: Awaitable[object], name: str) -> None:
    """Wait for a step of the stop; after the timeout, log it and go on."""
    try:
        await asyncio.wait_for(work, _DRAIN_TIMEOUT_S)
    except TimeoutError:
        _log.warning("stopping without waiting longer for %s", name)


def _start_tasks(settings: Settings, services: Services, runner: TaskRunner, archive_task: ArchiveTask) -> None:
    """Start the background tasks of both databases."""
    retention = Retention(services.storage, _topic_defaults(settings), services.clock, (TopicQueues(),))
    runner.every("clock", _CLOCK_INTERVAL_MS, services.clock.check)
    runner.every("retention", settings.retention_interval_ms, retention.raise_log_starts)
    runner.every("compaction", settings.retention_interval_ms, retention.compact)
    runner.every("purge", min(_PURGE_INTERVAL_MS, settings.retention_interval_ms), retention.purge)
    runner.every("producer-expiry", _EXPIRY_INTERVAL_MS, retention.expire)
    runner.every("rebalance", settings.rebalance_interval_ms, services.groups.rebalance)
    runner.every("memory", _MEMORY_INTERVAL_MS, services.memory.trim)
    runner.every("sessions", _SESSION_INTERVAL_MS, services.groups.record_running_node)
    runner.every("offset-expiry", _EXPIRY_INTERVAL_MS, services.offsets.expire)
    runner.every("source-refusals", _REFUSAL_INTERVAL_MS, services.receiver.store_refusals)
    runner.forever("archive", lambda on_success: archive_task.run(_ARCHIVE_INTERVAL_MS, on_success))


def _start_notice_tasks(
    settings: Settings, services: Services, runner: TaskRunner, outbox: Outbox, notices: Notices
) -> None:
    """Start the exchange of notices with the other nodes of a PostgreSQL database."""
    storage, signals = services.storage, services.signals
    runner.forever(
        "notices-out", lambda on_success: send_notices(outbox, notices, settings.notify_interval_ms, on_success)
    )
    runner.forever("notices-in", lambda on_success: receive_notices(signals, notices, on_success))
    runner.every("session-check", _SESSION_CHECK_INTERVAL_MS, storage.check_sessions)
    runner.every("poll", settings.poll_interval_ms, lambda: poll_watched(storage, signals))


@contextmanager
def _infrequent_collections() -> Iterator[None]:
    """Collect garbage less often, and only among new objects: requests leave no reference cycles."""
    thresholds = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(_COLLECTION_THRESHOLD)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()

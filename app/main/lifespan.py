"""The background tasks, and the order in which everything stops."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from app.api.services import Services
from app.broker.queues.topic_queues import TopicQueues
from app.broker.webhooks.nodes import BEAT_MS
from app.main.services import topic_defaults_of
from app.main.tracing import Traces
from app.settings import Settings
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
_ATTEMPT_INTERVAL_MS = 500
_ACCESS_INTERVAL_MS = 1_000
_DRAIN_TIMEOUT_S = 0.2


@asynccontextmanager
async def lifespan(
    settings: Settings,
    services: Services,
    runner: TaskRunner,
    outbox: Outbox,
    archive_task: ArchiveTask,
    traces: Traces | None,
) -> AsyncIterator[None]:
    """Run the background tasks while the application serves; then commit what is pending and close everything."""
    sys.setswitchinterval(_THREAD_SWITCH_INTERVAL_S)
    storage = services.storage
    async with AsyncExitStack() as stop:  # a step of the stop that fails does not prevent the next ones
        stop.enter_context(_infrequent_collections())
        stop.callback(storage.close)
        stop.callback(services.memory.close)
        stop.push_async_callback(lambda: _within_drain_timeout(services.access.close(), "the issuer of tokens"))
        if traces is not None:
            stop.push_async_callback(lambda: _within_drain_timeout(traces.close(), "the last traces"))
        notices = open_notices(settings.database_url) if storage.dialect.shared else None
        if notices is not None:
            stop.push_async_callback(notices.close)
        stop.push_async_callback(lambda: _within_drain_timeout(services.nodes.leave(), "the note of the stop"))
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
    retention = Retention(
        services.storage, topic_defaults_of(settings), services.clock, (TopicQueues(),), services.metrics.retention
    )
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
    runner.every("webhook-attempts", _ATTEMPT_INTERVAL_MS, services.dispatcher.store_attempts)
    runner.every("webhook-attempt-expiry", _EXPIRY_INTERVAL_MS, services.dispatcher.expire_attempts)
    if services.access.enabled:
        runner.every("access", _ACCESS_INTERVAL_MS, services.access.check)
        runner.every("audit", _ACCESS_INTERVAL_MS, services.audit.store_refusals)
    runner.forever("webhooks", services.dispatcher.run)
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
    runner.every("nodes", BEAT_MS, services.nodes.beat)
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

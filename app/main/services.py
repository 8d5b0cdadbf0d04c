"""Builds the parts of the application that the operations use."""

from __future__ import annotations

import platform
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from app import __version__
from app.api.services import Services
from app.broker.access.access_control import AccessControl
from app.broker.access.acls import Acls
from app.broker.access.identities import AccessRules
from app.broker.access.keys import Keys
from app.broker.access.stream_tokens import StreamTokens
from app.broker.encryption.secret_box import SecretBox, keys_of, make_key_beside
from app.broker.groups.coordinator import Coordinator
from app.broker.groups.group_transactions import Limits
from app.broker.groups.offsets import Offsets
from app.broker.groups.poller import Poller
from app.broker.log.appender import Appender
from app.broker.log.audit import Audit
from app.broker.log.broker_clock import BrokerClock
from app.broker.log.fetcher import Fetcher
from app.broker.log.page_reads import PageReads
from app.broker.log.producer import Producer
from app.broker.log.streams import Streams
from app.broker.log.topics import Topics
from app.broker.observation.readings import DatabaseReader
from app.broker.outbound.egress import Egress
from app.broker.outbound.exchange import OutboundRules
from app.broker.queues.deliveries.delivery_batcher import DeliveryBatcher
from app.broker.queues.queues import Queues
from app.broker.queues.redriver import Redriver
from app.broker.queues.topic_queues import TopicQueues
from app.broker.sources.receiver import Receiver
from app.broker.sources.refusals import Refusals
from app.broker.sources.sources import Sources
from app.broker.transactions import Transactions
from app.broker.waiting.memory_budget import MemoryBudget
from app.broker.waiting.request_limits import RequestLimits
from app.broker.waiting.signals import Signals
from app.broker.webhooks.attempt_log import AttemptLog
from app.broker.webhooks.deliveries.holding import HeldMemory, Lease
from app.broker.webhooks.deliveries.parts import WorkerParts
from app.broker.webhooks.deliveries.sender import Sender
from app.broker.webhooks.dispatcher import Dispatcher
from app.broker.webhooks.nodes import Nodes
from app.broker.webhooks.replays.replays import Replays
from app.broker.webhooks.replays.skips import Skips
from app.broker.webhooks.webhook_queues import forget_attempts
from app.broker.webhooks.webhooks import Webhooks
from app.domain.access.loopback import is_loopback
from app.domain.limits.installation import InstallationLimits
from app.domain.limits.quotas import Quota, quotas_of
from app.domain.log.topic import TopicConfig
from app.domain.memory.ledger import MemoryLedger
from app.domain.metrics.node_metrics import NodeMetrics
from app.domain.node import NodeDetails
from app.domain.outbound.addresses import parse_networks
from app.main.oidc import build_oidc_verifier
from app.server import allocator
from app.server.cgroup import default_budget_bytes
from app.settings import Settings
from app.storage.db.engine import Storage
from app.storage.db.transaction import Tx
from app.storage.sources.sources import has_source_secrets
from app.storage.webhooks.webhooks import has_webhook_secrets
from app.tasks.archiving import ArchiveTask
from app.tasks.notices import Outbox
from app.tasks.runner import TaskRunner

if TYPE_CHECKING:
    from app.broker.outbound.client import OutboundClient
    from app.broker.tracing.tracer import Tracer

_POLLS_PER_RECHECK = 10
"""A waiting acquire checks the database without a notice once in so many poll intervals: each check locks share
partitions."""


def build_services(
    settings: Settings,
    storage: Storage,
    runner: TaskRunner,
    outbox: Outbox,
    clock: BrokerClock,
    session_clock_ms: Callable[[], int],
    metrics: NodeMetrics,
    tracer: Tracer | None,
) -> tuple[ArchiveTask, Services]:
    """Return the parts that the operations use, and the task that archives the records of queues."""
    topic_defaults = topic_defaults_of(settings)
    memory = MemoryBudget(settings.memory_budget_bytes or default_budget_bytes(), allocator.trim)
    signals = Signals(outbox.put if storage.dialect.shared else None)
    topics = Topics(
        storage,
        signals,
        defaults=topic_defaults,
        default_partitions=settings.default_partitions,
        clock=clock,
        dependents=(TopicQueues(),),
        limits=InstallationLimits(
            settings.max_topics,
            settings.max_partitions,
            settings.max_queues,
            settings.max_sources,
            settings.max_webhooks,
        ),
    )
    appender = Appender(
        storage,
        signals,
        clock=clock,
        max_pending_bytes=settings.max_pending_bytes,
        topics=metrics.topics,
        counts=metrics.appends,
    )
    producer = Producer(
        storage,
        topics,
        appender,
        auto_create_topics=settings.auto_create_topics,
        clock=clock,
        tracer=tracer,
    )
    page_reads = PageReads(storage, memory.work)
    fetcher = Fetcher(page_reads, topics, signals)
    limits = Limits(settings.max_groups, settings.max_group_members)
    groups = Coordinator(storage, topics, signals, limits, session_clock_ms)
    offsets = Offsets(storage, topics, settings.max_groups)
    archive_task = ArchiveTask(storage, signals, topic_defaults, forget_attempts)
    box = _secret_box(settings, storage)
    sources = Sources(storage, topics, box, session_clock_ms)
    refusals = Refusals(storage, session_clock_ms)
    queues = Queues(storage, topics, signals)
    webhooks = Webhooks(storage, topics, signals, box)
    verifier = build_oidc_verifier(settings, session_clock_ms)
    access = AccessControl(storage, _access_rules(settings), clock, session_clock_ms, verifier)
    dispatcher = _build_dispatcher(
        settings,
        storage,
        access,
        topics,
        signals,
        box,
        clock,
        session_clock_ms,
        archive_task,
        memory.ledger.shares.small_of_address,
        tracer,
    )
    services = Services(
        storage=storage,
        access=access,
        audit=Audit(storage, signals, clock),
        keys=Keys(storage, clock, settings.max_keys, access.apply_change, first_is_admin=not settings.admin_key),
        acls=Acls(storage, clock, settings.max_acls, access.apply_change),
        stream_tokens=StreamTokens(storage, clock),
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
            storage,
            topics,
            signals,
            producer,
            offsets,
            clock_ms=clock,
            max_groups=settings.max_groups,
            counts=metrics.topics,
        ),
        queues=queues,
        deliveries=DeliveryBatcher(
            storage,
            queues,
            signals,
            recheck_ms=settings.poll_interval_ms * _POLLS_PER_RECHECK,
            to_archive=archive_task.wake,
            counts=metrics.deliveries,
        ),
        redriver=Redriver(storage, topics, queues, signals),
        sources=sources,
        webhooks=webhooks,
        replays=Replays(storage, topics, signals, webhooks),
        skips=Skips(storage, topics, signals, webhooks),
        dispatcher=dispatcher,
        nodes=Nodes(storage, dispatcher, _details_of(settings), lambda: _tasks_of(runner, metrics), clock),
        receiver=Receiver(sources, producer, refusals, clock),
        public_url=settings.public_url,
        clock=clock,
        memory=memory,
        metrics=metrics,
        database_reader=DatabaseReader(storage, dispatcher),
        tracer=tracer,
        limits=_request_limits(settings, memory.ledger),
        tasks_failing=runner.failing,
        tasks_stopped=runner.stopped,
        max_body_bytes=min(settings.max_body_bytes, memory.ledger.shares.body),
        max_records=settings.max_records,
        max_wait_ms=settings.max_wait_ms,
        metrics_partition_series=settings.metrics_partition_series,
        metrics_group_prefix="kafka" if settings.metrics_kafka_names else "millrace",
    )
    return archive_task, services


def _request_limits(settings: Settings, ledger: MemoryLedger) -> RequestLimits:
    default = Quota(
        settings.quota_produce_requests_per_s,
        settings.quota_produce_bytes_per_s,
        settings.quota_fetch_requests_per_s,
        settings.quota_fetch_bytes_per_s,
    )
    of_principals = {
        name: default._replace(**{f"{kind}_per_s": rate for kind, rate in quota.items()})
        for name, quota in settings.principal_quotas.items()
    }
    return RequestLimits(quotas_of(default, of_principals), settings.max_waiting_requests, ledger)


def _access_rules(settings: Settings) -> AccessRules:
    return AccessRules(settings.auth, is_loopback(settings.host), settings.admin_key, frozenset(settings.super_users))


def _details_of(settings: Settings) -> NodeDetails:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return NodeDetails(platform.node(), f"{host}:{settings.port}", __version__)


def _tasks_of(runner: TaskRunner, metrics: NodeMetrics) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of all background tasks, and of those that fail or have stopped."""
    return tuple(metrics.tasks), tuple(dict.fromkeys([*runner.stopped(), *runner.failing()]))


def _secret_box(settings: Settings, storage: Storage) -> SecretBox:
    path = storage.dialect.path

    def has_secrets() -> bool:
        with ThreadPoolExecutor(1) as thread:  # the thread that encrypts writes, and has no connection to read with
            return thread.submit(storage.read_now, _has_secrets).result()

    make_key = None if path is None else lambda: make_key_beside(path, has_secrets)
    return SecretBox(lambda: keys_of(settings.secret_key, path), make_key)


def _has_secrets(tx: Tx) -> bool:
    return has_source_secrets(tx) or has_webhook_secrets(tx)


def _build_dispatcher(
    settings: Settings,
    storage: Storage,
    access: AccessControl,
    topics: Topics,
    signals: Signals,
    box: SecretBox,
    clock: BrokerClock,
    session_clock_ms: Callable[[], int],
    archive_task: ArchiveTask,
    held_bytes: int,
    tracer: Tracer | None,
) -> Dispatcher:
    egress = Egress(session_clock_ms)
    log = AttemptLog(
        storage,
        kept=settings.webhook_attempts_kept,
        retention_ms=settings.webhook_attempt_retention_ms,
        wall_ms=clock,
    )
    sender = Sender(lambda: _outbound_client(settings), egress, tracer)
    parts = WorkerParts(
        storage,
        topics,
        signals,
        sender,
        egress,
        box,
        log,
        clock,
        archive_task.wake,
        settings.webhook_max_retrying,
        Lease(),
        HeldMemory(held_bytes),
        access,
    )
    return Dispatcher(parts, shared=storage.dialect.shared)


def _outbound_client(settings: Settings) -> OutboundClient:
    from app.broker.outbound.client import OutboundClient  # noqa: PLC0415 - only servers that send anything
    from app.broker.outbound.resolver import SystemResolver  # noqa: PLC0415 - as above

    rules = OutboundRules(
        parse_networks(settings.webhook_allowed_networks),
        settings.webhook_allow_http,
        settings.webhook_ca_file,
        settings.webhook_proxy_url,
    )
    return OutboundClient(rules, SystemResolver())


def topic_defaults_of(settings: Settings) -> TopicConfig:
    """Return the configuration of topics that set nothing."""
    return TopicConfig(max_message_bytes=settings.max_message_bytes)

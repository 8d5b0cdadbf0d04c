"""The parts of the application that the operations use; `app/main` builds them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.broker.access.access_control import AccessControl
from app.broker.access.acls import Acls
from app.broker.access.keys import Keys
from app.broker.access.stream_tokens import StreamTokens
from app.broker.groups.coordinator import Coordinator
from app.broker.groups.offsets import Offsets
from app.broker.groups.poller import Poller
from app.broker.log.appender import Appender
from app.broker.log.audit import Audit
from app.broker.log.broker_clock import BrokerClock
from app.broker.log.fetcher import Fetcher
from app.broker.log.producer import Producer
from app.broker.log.streams import Streams
from app.broker.log.topics import Topics
from app.broker.observation.readings import DatabaseReader
from app.broker.queues.deliveries.delivery_batcher import DeliveryBatcher
from app.broker.queues.queues import Queues
from app.broker.queues.redriver import Redriver
from app.broker.sources.receiver import Receiver
from app.broker.sources.sources import Sources
from app.broker.transactions import Transactions
from app.broker.waiting.memory_budget import MemoryBudget
from app.broker.waiting.request_limits import RequestLimits
from app.broker.waiting.signals import Signals
from app.broker.webhooks.dispatcher import Dispatcher
from app.broker.webhooks.nodes import Nodes
from app.broker.webhooks.replays.replays import Replays
from app.broker.webhooks.replays.skips import Skips
from app.broker.webhooks.webhooks import Webhooks
from app.domain.metrics.node_metrics import NodeMetrics
from app.storage.db.engine import Storage

if TYPE_CHECKING:
    from app.broker.tracing.tracer import Tracer


@dataclass(frozen=True, slots=True)
class Services:
    """The parts of the application and the limits of its requests.

    Attributes:
        public_url: The URL under which clients reach the server, without a slash at the end; empty if it is not set.
        clock: The clock of the log.
        metrics: What the node counts.
        database_reader: Reads the database for the metrics.
        tracer: Begins spans; None without traces.
        metrics_partition_series: Partitions of groups that have series of their own.
        metrics_group_prefix: What the names of the metrics of consumer groups begin with.
        tasks_failing: Returns the names of the background tasks that failed several times in a row.
        tasks_stopped: Returns the names of the background tasks that have ended although the node runs.
    """

    storage: Storage
    access: AccessControl
    audit: Audit
    keys: Keys
    acls: Acls
    stream_tokens: StreamTokens
    signals: Signals
    topics: Topics
    appender: Appender
    producer: Producer
    fetcher: Fetcher
    streams: Streams
    groups: Coordinator
    offsets: Offsets
    poller: Poller
    transactions: Transactions
    queues: Queues
    deliveries: DeliveryBatcher
    redriver: Redriver
    sources: Sources
    receiver: Receiver
    webhooks: Webhooks
    replays: Replays
    skips: Skips
    dispatcher: Dispatcher
    nodes: Nodes
    public_url: str
    clock: BrokerClock
    memory: MemoryBudget
    metrics: NodeMetrics
    database_reader: DatabaseReader
    tracer: Tracer | None
    limits: RequestLimits
    tasks_failing: Callable[[], list[str]]
    tasks_stopped: Callable[[], list[str]]
    max_body_bytes: int
    max_records: int
    max_wait_ms: int
    metrics_partition_series: int
    metrics_group_prefix: str

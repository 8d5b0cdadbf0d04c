"""What the routes work with: the parts of the application, built in `main`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from app.broker.appender import Appender
from app.broker.deliveries import Deliveries
from app.broker.fetcher import Fetcher
from app.broker.groups import Groups
from app.broker.offsets import Offsets
from app.broker.polling import Poller
from app.broker.producer import Producer
from app.broker.queues import Queues
from app.broker.redriving import Redriver
from app.broker.signals import Signals
from app.broker.streams import Streams
from app.broker.topics import Topics
from app.broker.transactions import Transactions
from app.storage.engine import Storage


@dataclass(frozen=True, slots=True)
class Services:
    """The parts of the application and the bounds of its requests.

    Attributes:
        clock: Wall clock in milliseconds.
        tasks_failing: Names of the background tasks that do not run as they should.
        answers: Number of answers by operation and status.
    """

    storage: Storage
    signals: Signals
    topics: Topics
    appender: Appender
    producer: Producer
    fetcher: Fetcher
    streams: Streams
    groups: Groups
    offsets: Offsets
    poller: Poller
    transactions: Transactions
    queues: Queues
    deliveries: Deliveries
    redriver: Redriver
    clock: Callable[[], int]
    tasks_failing: Callable[[], list[str]]
    max_body_bytes: int
    max_records: int
    max_wait_ms: int
    answers: dict[tuple[str, int], int] = field(default_factory=dict)

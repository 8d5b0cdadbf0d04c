"""A node without background tasks: tests run the work of the tasks themselves."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple

from app.broker.groups.group_transactions import Heartbeat
from app.broker.groups.offsets import Committer, OffsetCommit
from app.broker.groups.poll_page import PollResult
from app.broker.groups.poller import PollRequest
from app.broker.log.page_reader import PageSize
from app.broker.log.producer import ProduceRequest
from app.broker.log.topics import TopicRequest
from app.broker.waiting.deadline import Deadline, monotonic_ms
from app.domain.groups.member import JoinRequest, Subscription
from app.domain.log.record import Record
from app.main import create_app
from app.settings import Settings
from tests.waiting import until_true

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from app.api.services import Services
    from app.domain.groups.group import Group
    from app.storage.db.transaction import Tx
    from app.storage.groups.members import MemberSnapshot

PAGE = PageSize(500, 1_048_576, 1)
GROUP = "billing"
LONG_MS = 20_000
SECOND_MS = 1_000


class Clock:
    """The monotonic clock of a node, which tests advance."""

    def __init__(self) -> None:
        self._advanced_ms = 0

    def __call__(self) -> int:
        return monotonic_ms() + self._advanced_ms

    def advance(self, ms: int) -> None:
        self._advanced_ms += ms


class Seen(NamedTuple):
    """A record in an assertion."""

    topic: str
    partition: int
    offset: int


class Node:
    """One node of a cluster, with the operations that tests need.

    Attributes:
        reads: Number of read transactions so far; tests may reset it.
        writes: Number of write transactions so far.
        after_read: Runs once, after the next read and before its caller gets the result.
        before_write: Called with the arguments of each write; it may raise.
    """

    def __init__(self, url: str, **settings: Any) -> None:
        values = {"database_url": url, "ballast_bytes": 0} | settings
        self.clock = Clock()
        self.application = create_app(Settings.model_validate(values), self.clock)
        self.services = self.application.services
        self.storage = self.services.storage
        self.groups = self.services.groups
        self.writes = self.reads = 0
        self.after_read: Callable[[], Awaitable[None]] | None = None
        self.before_write: Callable[[tuple[Any, ...]], None] | None = None
        self._observe_storage()

    def _observe_storage(self) -> None:
        submit, read = self.storage.submit, self.storage.read

        def observed_submit(function: Any, *args: Any, **kwargs: Any) -> Any:
            self.writes += 1
            if self.before_write is not None:
                self.before_write(args)
            return submit(function, *args, **kwargs)

        async def observed_read(function: Any, *args: Any, **kwargs: Any) -> Any:
            self.reads += 1
            hook, self.after_read = self.after_read, None
            result = await read(function, *args, **kwargs)
            if hook is not None:
                await hook()
            return result

        self.storage.submit = observed_submit  # type: ignore[method-assign] # counts, and calls the real one
        self.storage.read = observed_read  # type: ignore[method-assign] # counts, and calls the real one

    async def create(self, topic: str = "orders", partitions: int = 2) -> None:
        await self.services.topics.create(topic, TopicRequest(partitions, {}))

    async def produce(self, *values: bytes, topic: str = "orders", partition: int = 0) -> None:
        records = [Record(partition, -1, None, value, None, 0) for value in values]
        await self.services.producer.produce(ProduceRequest(topic, None, records, sum(map(len, values))))

    async def join(self, member: str, *topics: str, group: str = GROUP, **options: Any) -> MemberSnapshot:
        joined, _ = await self.groups.join(group, join_request(member, *topics, **options))
        return joined

    async def heartbeat(
        self, member: str, epoch: int, owned: set[tuple[str, int]] | None = None, group: str = GROUP
    ) -> MemberSnapshot:
        return await self.groups.heartbeat(Heartbeat(group, member, epoch, None if owned is None else frozenset(owned)))

    async def poll(self, member: str = "alice", *, group: str = GROUP, wait_ms: int = 0, **options: Any) -> PollResult:
        """Poll with `topics`, which joins if necessary, or with `epoch`; see `poll_request`."""
        request = poll_request(member, group=group, **options)
        return await self.services.poller.poll(request, Deadline(wait_ms))

    def polling(self, member: str = "alice", wait_ms: int = LONG_MS, **options: Any) -> asyncio.Task[PollResult]:
        return asyncio.create_task(self.poll(member, wait_ms=wait_ms, **options))

    async def commit(self, member: str | None, epoch: int, *offsets: OffsetCommit, group: str = GROUP) -> None:
        await self.services.offsets.commit(Committer(group, member, epoch), offsets)

    async def committed(self, group: str = GROUP) -> dict[tuple[str, int], int | None]:
        return {(one.topic, one.partition): one.committed_offset for one in await self.services.offsets.lags(group)}

    async def group(self, name: str = GROUP) -> Group:
        return await self.groups.get(name)

    async def run_due_rebalances(self) -> None:
        """Run the rebalances that are due now, and a second later."""
        await self.groups.record_running_node()
        await self.groups.rebalance()
        await self.pass_time(SECOND_MS)
        await self.groups.rebalance()

    async def pass_time(self, ms: int, *, node_running: bool = True) -> None:
        """Advance the time of the groups: move all stored times and the node's clock."""
        await self.storage.write(_move_times, ms, node_running=node_running)
        self.clock.advance(ms)

    async def parked(self, reads: int = 1) -> None:
        """Return when this number of reads wait."""
        await parked(self.services, reads)


async def parked(services: Services, reads: int = 1) -> None:
    """Return when this number of reads of a node wait."""
    await until_true(lambda: services.signals.waiting == services.signals.parked == reads)


def join_request(member: str, *topics: str, pattern: str | None = None, **options: Any) -> JoinRequest:
    subscription = Subscription(topics or (() if pattern else ("orders",)), pattern)
    return JoinRequest(member_id=member, subscription=subscription, **options)


def poll_request(
    member: str,
    *,
    group: str = GROUP,
    topics: tuple[str, ...] = ("orders",),
    epoch: int | None = None,
    owned: set[tuple[str, int]] | None = None,
    commits: list[OffsetCommit] | None = None,
    auto_commit: bool = False,
    size: PageSize = PAGE,
    **options: Any,
) -> PollRequest:
    held = None if owned is None else frozenset(owned)
    return PollRequest(
        Heartbeat(group, member, epoch, held, released=held is None),
        join_request(member, *topics, **options) if epoch is None else None,
        commits or [],
        auto_commit,
        size,
    )


def seen(page: PollResult) -> list[Seen]:
    return [Seen(topic, partition, record.offset) for topic, partition, record in page.records]


def commits_of(page: PollResult) -> list[OffsetCommit]:
    """Return the commits of a consumer that has processed a page."""
    return [OffsetCommit(one.topic, one.partition, one.offset, one.from_offset) for one in page.ranges.values()]


def numbers(snapshot: MemberSnapshot) -> list[int]:
    """Return the numbers of the assigned partitions of a member, of all topics."""
    return sorted(number for _, number in snapshot.member.assigned)


def _move_times(tx: Tx, ms: int, *, node_running: bool) -> None:
    for statement in (
        "UPDATE group_members SET deadline_ms = deadline_ms - {0}, revoke_deadline_ms = revoke_deadline_ms - {0}",
        (
            "UPDATE consumer_groups SET assigned_at_ms = assigned_at_ms - {0}, assign_at_ms = assign_at_ms - {0}, "
            "empty_since_ms = empty_since_ms - {0}"
        ),
        "UPDATE group_offsets SET committed_at_ms = committed_at_ms - {0}",
        *(() if node_running else ("UPDATE group_ticks SET ticked_at_ms = ticked_at_ms - {0}",)),
    ):
        tx.connection.exec_driver_sql(statement.format(ms))

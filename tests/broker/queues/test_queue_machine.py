"""A queue compared with a model under random acquires, acknowledgements, clocks, retention and archiving."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from app.broker.queues import counts
from app.broker.queues.archiver import archive
from app.broker.queues.bulk_changes import release_locks, skip
from app.broker.queues.counts import QueueState, describe
from app.broker.queues.deliveries import acquisition, delayed_record_cache
from app.broker.queues.deliveries.delivery_transaction import DeliveryBatch, deliver
from app.broker.queues.held_records import HeldRecords
from app.domain.queues import share_partition_state
from app.domain.queues.dead_letter import origin_of
from app.domain.queues.delivery import Acknowledge, Acknowledged, Acknowledgement, Acquire, Acquired, Retry
from app.domain.queues.delivery_id import DeliveryId
from app.domain.queues.in_flight import AcknowledgeType
from app.domain.queues.queue import QueueConfig, QueueInfo
from app.storage.log import retention
from app.storage.log.retention import Purge
from app.storage.queues import queues, share_partitions
from app.storage.queues.share_partitions import SharePartitionKey
from tests.storage.scribe import DEFAULTS, NOW_MS, Row, Scribe
from tests.storage.scribe import request as append_request

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.domain.queues.queue import Ordering
    from app.storage.db.engine import Storage
    from app.storage.db.transaction import Tx

LOCK_MS = 1_000
LIMIT = 3
PARTITIONS = 2
KEYS = st.sampled_from([None, b"a", b"b", b"c"])


@dataclass
class Job:
    """A record in the model.

    Attributes:
        until_ms: End of its lock or delay.
        delayed: Whether it is in a row of its own, so that retention cannot delete it any more; None for a
            record with a delivery time, because the model does not track when it is admitted.
        end: How it ended, or "".
    """

    partition: int
    offset: int
    key: bytes | None
    until_ms: int = 0
    acquired: bool = False
    count: int = 0
    delayed: bool | None = False
    end: str = ""
    to_archive: bool = False


class Machine(RuleBasedStateMachine):
    """A queue over a topic of two partitions, with a dead-letter topic."""

    number: ClassVar[int] = 0

    def __init__(self, storage: Storage, *, small_window: bool = False) -> None:
        super().__init__()
        self.small_window = small_window
        self.scribe = Scribe(storage)
        self.now_ms = NOW_MS
        self.jobs: dict[tuple[int, int], Job] = {}
        self.deliveries: list[DeliveryId] = []
        self.starts = [0] * PARTITIONS
        self.rotation = 0

    @initialize(ordering=st.sampled_from(["none", "key", "partition"]))
    def create(self, ordering: Ordering) -> None:
        Machine.number += 1
        self.ordering = ordering
        self.topic = self.scribe.create(f"orders-{self.number}", PARTITIONS)
        self.dead = self.scribe.create(f"dead-{self.number}", 1)
        config = QueueConfig(lock_duration_ms=LOCK_MS, max_delivery_count=LIMIT, ordering=ordering)
        starts = dict.fromkeys(self.topic.partition_ids, 0)
        name = f"jobs-{self.number}"
        assert self.write(queues.create, name, self.topic.topic_id, self.dead.topic_id, config, starts, NOW_MS)
        found = self.scribe.storage.read_now(queues.find, name)
        assert found is not None
        self.queue: QueueInfo = found

    @rule(
        partition=st.integers(0, PARTITIONS - 1),
        keys=st.lists(KEYS, min_size=1, max_size=4),
        delay_ms=st.sampled_from([0, 0, 0, 700, 5_000]),
    )
    def produce(self, partition: int, keys: list[bytes | None], delay_ms: int) -> None:
        at_ms = self.now_ms + delay_ms
        headers = json.dumps([{"name": "deliver_at_ms", "value": str(at_ms)}]).encode() if delay_ms else None
        for key in keys:
            (accepted,) = self.scribe.apply(append_request(self.topic, [Row(NOW_MS, key, b"x", headers)], partition))
            offset: int = accepted.appended.offsets[0]  # type: ignore[union-attr] # appended, no duplicate
            job = Job(partition, offset, key, at_ms if delay_ms else 0, delayed=None if delay_ms else False)
            self.jobs[partition, offset] = job

    @rule(wanted=st.integers(1, 6), lock_ms=st.sampled_from([None, 3_000]))
    def acquire(self, wanted: int, lock_ms: int | None) -> None:
        acquired = self.acquire_checked(wanted, lock_ms)
        if len(acquired) < wanted and not (acquired and self.small_window):
            missed = [job for job in self.jobs.values() if self.available(job) and not self.window_may_be_full(job)]
            assert missed == []

    @rule(wanted=st.integers(1, 6))
    def acquire_again(self, wanted: int) -> None:
        ends = self.end_offsets()
        self.acquire_checked(wanted, None, admit_new=False)
        assert self.end_offsets() == ends

    @rule()
    def release_locks(self) -> None:
        acquired = [job for job in self.jobs.values() if job.acquired and job.until_ms > self.now_ms and not job.end]
        assert self.write(release_locks, self.queue, self.time) == len(acquired)
        for job in acquired:
            self.model_settled(job, AcknowledgeType.WITHDRAW, 0)

    @rule(partition=st.integers(0, PARTITIONS - 1), fraction=st.floats(0, 1))
    def skip(self, partition: int, fraction: float) -> None:
        of_partition = [job for job in self.jobs.values() if job.partition == partition]
        offset = int(fraction * fraction * len(of_partition))
        skipped = [job for job in of_partition if job.offset < offset and not job.end and not self.lost(job)]
        unknown = [job for job in skipped if job.delayed is None and job.offset < self.starts[partition]]
        assert not unknown
        assert self.write(skip, self.queue, self.topic.partition_ids[partition], offset, self.time) == len(skipped)
        for job in skipped:
            job.end = "skipped"

    @precondition(lambda self: self.deliveries)
    @rule(
        data=st.data(),
        acknowledge_type=st.sampled_from(
            [
                AcknowledgeType.ACCEPT,
                AcknowledgeType.RELEASE,
                AcknowledgeType.REJECT,
                AcknowledgeType.RENEW,
                AcknowledgeType.WITHDRAW,
            ]
        ),
        delay_ms=st.sampled_from([0, 0, 400, 4_000]),
    )
    def acknowledge(self, data: Any, acknowledge_type: AcknowledgeType, delay_ms: int) -> None:
        delivery_id = data.draw(st.sampled_from(self.deliveries))
        delay_ms = delay_ms if acknowledge_type is AcknowledgeType.RELEASE else 0
        self.settle(delivery_id, acknowledge_type, delay_ms)

    @rule(milliseconds=st.sampled_from([1, 300, 999, 1_000, 6_000]))
    def wait(self, milliseconds: int) -> None:
        self.now_ms += milliseconds

    @rule()
    def archive(self) -> None:
        for partition_id in self.topic.partition_ids:
            while self.write(archive, SharePartitionKey(self.queue.queue_id, partition_id), DEFAULTS, self.time).more:
                pass
        for job in self.jobs.values():
            self.model_archived(job)

    @rule(partition=st.integers(0, PARTITIONS - 1), fraction=st.floats(0, 1))
    def retain(self, partition: int, fraction: float) -> None:
        of_partition = [job for job in self.jobs.values() if job.partition == partition]
        unknown = [job.offset for job in of_partition if job.delayed is None and not job.end]
        end = min(unknown, default=len(of_partition))
        start = self.starts[partition] + int(fraction * (end - self.starts[partition]))
        if start > self.starts[partition]:
            assert self.scribe.delete_before(self.topic, start, partition)
            self.starts[partition] = start

    @rule(partition=st.integers(0, PARTITIONS - 1), limit=st.sampled_from([1, 2, 100]))
    def delete_rows(self, partition: int, limit: int) -> None:
        self.write(delete_rows, self.topic.partition_ids[partition], self.starts[partition], self.now_ms, limit)

    @invariant()
    def every_record_is_counted_once(self) -> None:
        if not hasattr(self, "queue"):
            return
        state = self.state()
        acquired = [job for job in self.jobs.values() if job.acquired and job.until_ms > self.now_ms and not job.end]
        accepted = [job for job in self.jobs.values() if job.end == "accepted"]
        assert sum(state[:6]) == len(self.jobs)
        assert (state.acquired, state.accepted) == (len(acquired), len(accepted))

    def teardown(self) -> None:
        """End all records, and compare how they ended."""
        if not hasattr(self, "queue"):
            return
        for _ in range(200):
            self.now_ms += 10_000
            self.archive()
            acquired = self.acquire_checked(50, None)
            for delivery_id in acquired:
                self.settle(delivery_id, AcknowledgeType.ACCEPT, 0)
            if not acquired:
                break
        state = self.state()
        assert (state.available, state.acquired, state.delayed, state.blocked) == (0, 0, 0, False)
        ends = [job.end for job in self.jobs.values()]
        assert state.accepted == ends.count("accepted")
        assert state.archived == ends.count("archived") + ends.count("skipped")
        assert state.expired == ends.count("")
        for job in self.jobs.values():
            if not job.end:
                assert job.offset < self.starts[job.partition], job
        letters = sorted(self.dead_letters())
        archived = sorted((job.partition, job.offset) for job in self.jobs.values() if job.end == "archived")
        assert letters == archived

    def end_offsets(self) -> list[int]:
        """Return up to where each partition has been admitted; retention moves that to the log start offset."""
        states = self.scribe.storage.read_now(share_partitions.list_, self.queue.queue_id)
        return [max(state.end_offset, start) for state, start in zip(states, self.starts, strict=True)]

    def acquire_checked(self, wanted: int, lock_ms: int | None, *, admit_new: bool = True) -> list[DeliveryId]:
        """Acquire, and check each delivery against the model."""
        answer: object = Retry()
        while isinstance(answer, Retry):
            answer = self.deliver(Acquire(wanted, 1 << 25, lock_ms, admit_new=admit_new))
        assert isinstance(answer, Acquired)
        assert len(answer.deliveries) <= wanted
        for delivery_id, record, until_ms in answer.deliveries:
            job = self.jobs[delivery_id.partition, delivery_id.offset]
            assert record.key == job.key
            assert self.available(job), (job, self.now_ms)
            assert delivery_id.delivery_count == job.count + 1
            assert until_ms == self.now_ms + (lock_ms or LOCK_MS)
            job.acquired, job.count, job.until_ms = True, delivery_id.delivery_count, until_ms
            self.deliveries.append(delivery_id)
        return [each.delivery_id for each in answer.deliveries]

    def settle(self, delivery_id: DeliveryId, acknowledge_type: AcknowledgeType, delay_ms: int) -> None:
        answer = self.deliver(Acknowledge([Acknowledgement(delivery_id, acknowledge_type, delay_ms)]))
        assert isinstance(answer, Acknowledged)
        job = self.jobs[delivery_id.partition, delivery_id.offset]
        is_current = (
            job.acquired and job.until_ms > self.now_ms and job.count == delivery_id.delivery_count and not job.end
        )
        assert [each.code for each in answer.results] == [None if is_current else "INVALID_RECORD_STATE"]
        if is_current:
            self.model_settled(job, acknowledge_type, delay_ms)

    def model_settled(self, job: Job, acknowledge_type: AcknowledgeType, delay_ms: int) -> None:
        if acknowledge_type is AcknowledgeType.RENEW:
            job.until_ms = max(job.until_ms, self.now_ms + LOCK_MS)
            return
        job.acquired = False
        if acknowledge_type is AcknowledgeType.ACCEPT:
            job.end = "accepted"
        elif acknowledge_type is AcknowledgeType.REJECT or (
            acknowledge_type is AcknowledgeType.RELEASE and job.count >= LIMIT
        ):
            job.to_archive = True
        else:
            job.until_ms = self.now_ms + delay_ms
            if job.delayed is False:
                job.delayed = delay_ms > 0 or job.offset < self.starts[job.partition]

    def model_archived(self, job: Job) -> None:
        expired = job.acquired and job.until_ms <= self.now_ms and job.count >= LIMIT
        if not job.end and (job.to_archive or expired):
            job.end = "archived"

    def available(self, job: Job) -> bool:
        if not self.is_free(job):
            return False
        return all(other.end or self.lost(other) for other in self.jobs.values() if self.blocks(other, job))

    def blocks(self, other: Job, job: Job) -> bool:
        """Return whether a record, as long as it has not ended, keeps another one from being delivered."""
        if other.partition != job.partition or other.offset >= job.offset:
            return False
        return self.ordering == "partition" or (self.ordering == "key" and job.key is not None and other.key == job.key)

    def is_free(self, job: Job) -> bool:
        if job.end or job.to_archive or job.until_ms > self.now_ms or (job.acquired and job.count >= LIMIT):
            return False
        return not self.lost(job)

    def window_may_be_full(self, job: Job) -> bool:
        """Return whether records that are held or delayed may keep others of their partition out of flight."""
        others = [other for other in self.jobs.values() if other.partition == job.partition and not other.end]
        return self.small_window and any(other.until_ms > self.now_ms or other.to_archive for other in others)

    def lost(self, job: Job) -> bool:
        """Return whether retention has deleted the record while it was available."""
        held = job.delayed is not False or job.acquired or job.to_archive
        return not held and job.offset < self.starts[job.partition]

    def state(self) -> QueueState:
        return self.scribe.storage.read_now(describe, self.queue, self.time)

    def dead_letters(self) -> Iterator[tuple[int, int]]:
        for record in self.scribe.page(self.dead, 0, max_records=10_000):
            origin = origin_of(record.headers)
            assert origin is not None
            assert (origin.topic, origin.queue) == (self.topic.name, self.queue.name)
            yield origin.partition, origin.offset

    def deliver(self, request: Acquire | Acknowledge) -> object:
        self.rotation += 1
        batch = DeliveryBatch(self.queue, self.topic, [request], self.rotation, wait=False)
        done = self.write(deliver, batch, self.time)
        return done.answers[0]

    def write(self, query: Any, *args: Any) -> Any:
        return self.scribe.storage.write_now(query, *args)

    def time(self, _: Tx) -> int:
        return self.now_ms


def delete_rows(tx: Tx, partition_id: int, before_offset: int, now_ms: int, limit: int) -> None:
    """Delete some rows of a partition that are no longer in the log, after the queue has copied what it holds."""
    before_offset = HeldRecords(tx, partition_id).copy_before(before_offset, now_ms, limit)
    retention.purge(tx, Purge(partition_id, before_offset), limit)


def run(storage: Storage, examples: int, steps: int, *, small_window: bool = False) -> None:
    machine: Any = lambda: Machine(storage, small_window=small_window)  # noqa: E731 - hypothesis expects a class or a factory
    rules = settings(max_examples=examples, stateful_step_count=steps, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(machine, settings=rules)


def test_a_queue_behaves_as_its_model(storage: Storage) -> None:
    run(storage, 20 if storage.dialect.lanes == 1 else 6, 30)


def test_a_queue_with_few_records_in_flight_behaves_as_its_model(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_in_flight(monkeypatch)
    run(storage, 20 if storage.dialect.lanes == 1 else 6, 30, small_window=True)


@pytest.mark.slow
@pytest.mark.parametrize("small_window", [False, True])
def test_a_queue_behaves_as_its_model_in_long_runs(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, *, small_window: bool
) -> None:
    if small_window:
        limit_in_flight(monkeypatch)
    run(storage, 300 if storage.dialect.lanes == 1 else 100, 60, small_window=small_window)


def limit_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let three records be in flight and four wait behind delayed ones, so that each limit is reached."""
    for module in (share_partition_state, acquisition):
        monkeypatch.setattr(module, "MAX_IN_FLIGHT", 3)
    monkeypatch.setattr(delayed_record_cache, "MAX_REFERENCES", 4)
    monkeypatch.setattr(counts, "MAX_REFERENCES", 4)

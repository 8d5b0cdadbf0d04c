"""Faults of the log: offsets, commits, repeats, pages, retention, wake-ups."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from app.broker.log import fetcher, page_reader
from app.broker.log.appender import Appender
from app.broker.waiting.signals import Signals
from app.domain.log import append
from app.domain.log.append import Accepted, AppendBatch, Appended, PartitionEnd
from app.domain.log.offset_spec import At
from app.errors.log import InvalidProducerEpoch, OffsetMismatch
from app.storage.db.log_ends import LogEnds
from app.storage.db.postgres.dialect import Postgres
from app.storage.db.sqlite import dialect
from app.storage.db.sqlite.dialect import Sqlite
from app.storage.log import appends, idempotency, pages, producers, retention
from app.storage.log.appends import append_all
from tests.history.planted import log_scenarios
from tests.history.planted.cluster import appends_records
from tests.history.planted.fault import Fault, replacing

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pytest

    from app.domain.log.append import Append, AppendOutcome
    from app.storage.db.transaction import Tx
    from tests.history.planted.cluster import Cluster


def _later_end(end: PartitionEnd, offset: int) -> PartitionEnd:
    return replace(end, log_end_offset=max(end.log_end_offset, offset))


def _offset_outside_the_lock(monkeypatch: pytest.MonkeyPatch, cluster: Cluster) -> None:
    """Take offsets from a counter in memory, as a sequence gives them; the first transaction commits last."""
    counter: dict[int, int] = {}
    read_ends, commit = appends._read_ends, Postgres.commit
    waited: list[None] = []

    def read(tx: Tx, partition_ids: Sequence[int]) -> dict[int, PartitionEnd]:
        ends = read_ends(tx, partition_ids)
        for partition_id, end in ends.items():
            counter[partition_id] = max(counter.get(partition_id, -1) + 1, end.log_end_offset)
            ends[partition_id] = _later_end(end, counter[partition_id])
        return ends

    def commit_late(self: Postgres, tx: Tx) -> None:
        if appends_records(tx) and not waited:
            waited.append(None)
            cluster.await_point("polled")
        commit(self, tx)

    monkeypatch.setattr(appends, "_read_ends", read)
    monkeypatch.setattr(Postgres, "lock_partitions", lambda *_: None)
    monkeypatch.setattr(Postgres, "commit", commit_late)


def _offsets_in_blocks(monkeypatch: pytest.MonkeyPatch, _: Cluster) -> None:
    """Let the second node take its offsets from a block of its own, above those of the first."""
    nodes: list[Any] = []
    own: dict[int, int] = {}
    read_ends = appends._read_ends

    def read(tx: Tx, partition_ids: Sequence[int]) -> dict[int, PartitionEnd]:
        ends = read_ends(tx, partition_ids)
        if tx.dialect not in nodes:
            nodes.append(tx.dialect)
        node = nodes.index(tx.dialect)
        for partition_id, end in ends.items():
            ends[partition_id] = replace(end, log_end_offset=own.get(node, 100 * node))
            own[node] = own.get(node, 100 * node) + 2
        return ends

    monkeypatch.setattr(appends, "_read_ends", read)


def _acknowledge_before_commit(monkeypatch: pytest.MonkeyPatch, cluster: Cluster) -> None:
    """Answer when the statements have run; COMMIT follows after the first reader has read."""

    def submit(self: Appender, _: object, batch: Sequence[Any]) -> asyncio.Future[list[AppendOutcome]]:
        loop = asyncio.get_running_loop()
        early: asyncio.Future[list[AppendOutcome]] = loop.create_future()

        def run(tx: Tx, requests: Sequence[Append], now_ms: int) -> None:
            outcomes = append_all(tx, requests, now_ms)
            loop.call_soon_threadsafe(early.set_result, outcomes)
            cluster.await_point("polled")

        self._storage.submit(run, [request.append for request in batch], self._clock())
        return early

    monkeypatch.setattr(Appender, "_submit", submit)


def _forgotten_commit(monkeypatch: pytest.MonkeyPatch, _: Cluster) -> None:
    """Leave out the first COMMIT of an append."""
    commit = Sqlite.commit
    left_out: list[None] = []

    def sometimes(self: Sqlite, tx: Tx) -> None:
        if appends_records(tx) and not left_out:
            left_out.append(None)
            tx.deferred = []
        else:
            commit(self, tx)

    monkeypatch.setattr(Sqlite, "commit", sometimes)


def _overwritten_record(monkeypatch: pytest.MonkeyPatch, _: Cluster) -> None:
    """Give the last offset again, and let the INSERT replace its record."""
    of, insert_of = LogEnds.of, dialect._insert_of

    def earlier(self: LogEnds, partition_ids: Sequence[int]) -> dict[int, PartitionEnd]:
        ends = of(self, partition_ids)
        for end in ends.values():
            end.log_end_offset = max(0, end.log_end_offset - 1)
        return ends

    monkeypatch.setattr(LogEnds, "of", earlier)
    monkeypatch.setattr(
        dialect, "_insert_of", lambda size: insert_of(size).replace("INSERT INTO", "INSERT OR REPLACE INTO")
    )


def _two_transactions_per_request(monkeypatch: pytest.MonkeyPatch, cluster: Cluster) -> None:
    """Write the records of the first partition in a transaction of their own, before the rest is lost."""

    def half(tx: Tx) -> None:
        (statement,) = [one for one in tx.deferred if "INTO records" in one.sql]
        rows = [statement.parameters[start : start + 8] for start in range(0, len(statement.parameters), 8)]
        first = next(row for row in rows if row[0] is not None)
        tx.deferred = []
        tx.dialect.append_records(tx, [tuple(first)])  # type: ignore[list-item] # a row of the driver's values
        tx.connection.commit()

    cluster.partial_commit = half


def _repeat_with_another_offset(original: Any, self: AppendBatch, request: Append) -> bytes | None:
    stored = original(self, request)
    if stored is None:
        return None
    partitions, offsets, timestamps = msgspec.msgpack.decode(stored)
    return append._encoder.encode(Appended(partitions, [offset + 1 for offset in offsets], timestamps))


def _no_fencing(original: Any, *args: Any) -> bytes | None:
    try:
        found: bytes | None = original(*args)
    except InvalidProducerEpoch:
        return None
    return found


def _condition_after_the_rows(original: Any, self: AppendBatch, request: Append) -> AppendOutcome:
    outcome: AppendOutcome = original(self, replace(request, expected_offset=None))
    if request.expected_offset is not None and isinstance(outcome, Accepted):
        return OffsetMismatch("log_end_offset differs", log_end_offset=outcome.appended.offsets[0])
    return outcome


def _reversed_records(original: Any, self: AppendBatch, request: Append) -> Appended:
    appended: Appended = original(
        self, replace(request, records=request.records[::-1], partitions=request.partitions[::-1])
    )
    return Appended(appended.partitions[::-1], appended.offsets[::-1], appended.timestamps_ms[::-1])


def _without_second_record(original: Any, *args: Any) -> list[Any]:
    found: list[Any] = original(*args)
    return found[:1] + found[2:]


def _next_offset_plus(number: int) -> Any:
    def read(original: Any, *args: Any, **kwargs: Any) -> Any:
        page = original(*args, **kwargs)
        return page._replace(next_offset=page.next_offset + number) if page.records else page

    return read


def _without_bounds(original: Any, tx: Tx, bounds: Any, spec: Any, reset: Any) -> int:
    return 0 if spec == At(0) else original(tx, bounds, spec, reset)


def _delete_one_more(original: Any, tx: Tx, partition_id: int, offset: int, *version: int) -> bool:
    deleted: bool = original(tx, partition_id, offset + 1, *version)
    return deleted


def _wake_this_node(original: Any, self: Signals, partition_ids: Any) -> None:
    self.wake(partition_ids)


def _nothing(*_: object) -> None:
    return


def _empty(*_: object) -> dict[Any, Any]:
    return {}


_READ = log_scenarios.produce_and_read

LOG_FAULTS = [
    Fault(
        "an offset is given outside the lock",
        _offset_outside_the_lock,
        log_scenarios.two_nodes,
        "internal poll skip",
        shared=True,
    ),
    Fault(
        "each node has offsets of its own",
        _offsets_in_blocks,
        log_scenarios.two_nodes,
        "nonmonotonic send",
        shared=True,
    ),
    Fault(
        "the notice to the other node is lost",
        replacing(Signals, "announce", _wake_this_node),
        log_scenarios.parked_read,
        "lost wake-up",
        shared=True,
    ),
    Fault(
        "the log end in memory survives a lost commit",
        replacing(LogEnds, "clear", _nothing),
        log_scenarios.lost_commit,
        "internal poll skip",
    ),
    Fault(
        "a request is written in two transactions",
        _two_transactions_per_request,
        log_scenarios.lost_commit,
        "torn request",
    ),
    Fault("an append is acknowledged before COMMIT", _acknowledge_before_commit, _READ, "stale read"),
    Fault("an append is acknowledged without COMMIT", _forgotten_commit, _READ, "lost"),
    Fault("an offset is given twice", _overwritten_record, _READ, "inconsistent offsets"),
    Fault(
        "the records of a request are reversed",
        replacing(AppendBatch, "_add_rows", _reversed_records),
        _READ,
        "internal nonmonotonic send",
    ),
    Fault(
        "the Idempotency-Key is stored in a transaction that does not happen",
        replacing(idempotency, "save_results", _nothing),
        _READ,
        "duplicate",
    ),
    Fault("a used Idempotency-Key is not looked up", replacing(idempotency, "claim", _empty), _READ, "duplicate"),
    Fault("the sequence of a producer is not stored", replacing(producers, "save", _nothing), _READ, "duplicate"),
    Fault(
        "a repeat is answered with another offset",
        replacing(AppendBatch, "_stored_result", _repeat_with_another_offset),
        _READ,
        "duplicate",
    ),
    Fault(
        "the epoch of a producer is not compared",
        replacing(append, "stored_result", _no_fencing),
        log_scenarios.refused_sends,
        "zombie",
    ),
    Fault(
        "a condition is judged after the rows were added",
        replacing(AppendBatch, "_apply", _condition_after_the_rows),
        log_scenarios.refused_sends,
        "aborted read",
    ),
    Fault("a page passes over a record", replacing(pages, "read", _without_second_record), _READ, "internal poll skip"),
    Fault(
        "next_offset is one too high", replacing(fetcher, "read_partition", _next_offset_plus(1)), _READ, "poll skip"
    ),
    Fault(
        "next_offset is one too low",
        replacing(fetcher, "read_partition", _next_offset_plus(-1)),
        _READ,
        "nonmonotonic poll",
    ),
    Fault(
        "an append does not wake a waiting read",
        replacing(Signals, "wake", _nothing),
        log_scenarios.parked_read,
        "lost wake-up",
    ),
    Fault(
        "a deletion takes one record too many",
        replacing(retention, "delete_before", _delete_one_more),
        log_scenarios.deleted_records,
        "lost",
    ),
    Fault(
        "a read does not compare the log start offset",
        replacing(page_reader, "_start_offset", _without_bounds),
        log_scenarios.deleted_records,
        "read below the log start",
    ),
]
